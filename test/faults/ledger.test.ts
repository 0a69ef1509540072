/** The instrument of the other tests here: it must see what it is there to see. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { discrepancies } from '../support/balance.ts';
import { type Entry, Ledger } from '../support/ledger.ts';
import type { Snapshot, StoredMessage } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

const CONVERSATION = '0d0e1f00-0000-4000-8000-000000000001';

/** A reply that was shown to its end, and the rows that belong to it. */
function told(): { ledger: Ledger; entry: Entry; asked: StoredMessage; reply: StoredMessage } {
  const ledger = new Ledger();
  const entry = ledger.add(question({ pieces: 20, pace: 0 }));
  const common = { conversation_id: CONVERSATION, status: 'complete', finish_reason: null } as const;
  entry.acknowledge(CONVERSATION, 'reply-1');
  entry.show(entry.expected);
  entry.reply.end = { kind: 'done', finishReason: 'stop', persisted: true };
  const asked = {
    ...common,
    id: 1,
    uid: 'q-1',
    role: 'user',
    content: entry.question,
    reply_to: null,
  } as const;
  const reply = { ...common, id: 2, uid: 'reply-1', role: 'assistant', content: entry.expected } as const;
  return { ledger, entry, asked, reply: { ...reply, reply_to: 'q-1' } };
}

const stored = (...messages: StoredMessage[]): Snapshot => ({
  messages,
  conversations: new Set([CONVERSATION]),
});

function assertSees(ledger: Ledger, snapshot: Snapshot, what: RegExp): void {
  const problems = discrepancies(ledger, snapshot);
  assert.match(problems.join('\n'), what);
}

describe('a ledger', () => {
  it('accepts matching rows', () => {
    const { ledger, asked, reply } = told();
    assert.deepEqual(discrepancies(ledger, stored(asked, reply)), []);
  });

  it('accepts that an unacknowledged question is missing', () => {
    const ledger = new Ledger();
    ledger.add(question({ pieces: 1, pace: 0 }));
    assert.deepEqual(discrepancies(ledger, { messages: [], conversations: new Set() }), []);
  });

  it('detects a lost, a duplicate and an unknown question', () => {
    const { ledger, asked, reply } = told();
    assertSees(ledger, stored(), /was acknowledged, but its question is not stored/);
    assertSees(ledger, stored(asked, reply, { ...asked, id: 3, uid: 'q-2' }), /question is stored 2 times/);
    assertSees(ledger, stored(asked, reply, { ...asked, id: 3, uid: 'x', content: 'y' }), /never sent: "y"/);
  });

  it('detects a lost, a duplicate, a different and a cut reply', () => {
    const { ledger, asked, reply } = told();
    assertSees(ledger, stored(asked), /its reply reply-1 was shown and is not stored/);
    assertSees(ledger, stored(asked, reply, { ...reply, id: 3, uid: 'r-2' }), /has 2 replies/);
    assertSees(
      ledger,
      stored(asked, { ...reply, content: `${reply.content}x` }),
      /was done with another text/,
    );
    assertSees(ledger, stored(asked, { ...reply, content: reply.content.slice(0, 9) }), /is complete with/);
    assertSees(
      ledger,
      stored(asked, { ...reply, uid: 'other' }),
      /has 1 replies.*\n.*reply-1 was shown and is not/,
    );
  });

  it('detects an orphan, a duplicate uid and a wrong order', () => {
    const { ledger, asked, reply } = told();
    assertSees(ledger, stored(asked, { ...reply, reply_to: 'nobody' }), /the reply reply-1 has no question/);
    assertSees(ledger, { messages: [asked, reply], conversations: new Set() }, /q-1 has no conversation/);
    assertSees(ledger, stored(asked, { ...reply, uid: 'q-1' }), /the uid q-1 is there twice/);
    assertSees(ledger, stored(reply, asked), /stands before its question/);
  });

  it('detects a wrong status', () => {
    const { ledger, entry, asked, reply } = told();
    const as = (status: StoredMessage['status']) => stored(asked, { ...reply, status });
    assertSees(ledger, as('streaming'), /is still streaming/);
    assertSees(ledger, as('incomplete'), /was done with stop and is stored as incomplete/);
    assertSees(ledger, as('cancelled'), /without a request to stop/);
    entry.reply.end = { kind: 'error', code: 'upstream_error' };
    assertSees(ledger, as('complete'), /ended with an error, stored as complete/);
    assertSees(ledger, as('incomplete'), /is incomplete without a reason/);
  });

  it('detects a reply marked as not persisted while the database was available', () => {
    const { ledger, entry, asked, reply } = told();
    entry.reply.end = { kind: 'done', finishReason: 'stop', persisted: false };
    assertSees(ledger, stored(asked, reply), /persisted: false/);
    ledger.databaseWasAway = true;
    assert.deepEqual(discrepancies(ledger, stored(asked, reply)), []);
  });

  it('detects a deleted conversation that came back', () => {
    const { ledger, entry, asked, reply } = told();
    entry.deletion = 'done';
    assertSees(ledger, stored(asked, reply), /is there although it was deleted/);
    assert.deepEqual(discrepancies(ledger, { messages: [], conversations: new Set() }), []);
  });

  it('excuses by a crash only text sent just before it', (t) => {
    t.mock.method(performance, 'now', () => now);
    let now = 0;
    const ledger = new Ledger();
    const entry = ledger.add(question({ pieces: 20, pace: 0 }));
    const { asked, reply } = told();
    entry.acknowledge(CONVERSATION, 'reply-1');
    entry.show(entry.expected.slice(0, 10));
    now = 3000;
    entry.show(entry.expected.slice(0, 20));
    now = 4000;
    ledger.crash(0);
    const kept = (length: number) =>
      stored(
        { ...asked, content: entry.question },
        { ...reply, status: 'incomplete', content: entry.expected.slice(0, length) },
      );
    assert.deepEqual(discrepancies(ledger, kept(20)), []);
    assert.deepEqual(discrepancies(ledger, kept(10)), []);
    assertSees(ledger, kept(9), /10 units had been shown long before the crash, 9 are stored/);
  });

  it('allows that a reply was replaced only if it broke and its key was used again', () => {
    const { ledger, asked, reply } = told();
    const first = { ...reply, id: 2, uid: 'reply-0', content: '', status: 'incomplete' } as const;
    assertSees(ledger, stored(asked, first, { ...reply, id: 3 }), /has 2 replies/);
    const keyed = new Ledger();
    const entry = keyed.add(question({ pieces: 20, pace: 0 }), { key: 'k' });
    entry.mayBreak = true;
    const sent = { ...asked, content: entry.question };
    const second = { ...reply, id: 3, content: entry.expected };
    entry.acknowledge(CONVERSATION, 'reply-0');
    entry.show(entry.expected.slice(0, 7));
    assert.deepEqual(discrepancies(keyed, stored(sent, second)), []);
    assertSees(keyed, stored(sent, { ...second, content: 'another text' }), /stored is/);
    entry.acknowledge(CONVERSATION, 'reply-1');
    entry.show(entry.expected);
    assert.deepEqual(discrepancies(keyed, stored(sent, second)), []);
    assertSees(keyed, stored(sent, first, second), /has 2 replies/);
    entry.reply.end = { kind: 'done', finishReason: 'stop', persisted: true };
    entry.acknowledge(CONVERSATION, 'reply-2');
    assertSees(keyed, stored(sent, second), /its reply was reply-1 and is said to be reply-2/);
  });

  it('detects two questions in the wrong order, unless they were concurrent', () => {
    const { ledger, entry, asked, reply } = told();
    const options = { conversationId: CONVERSATION };
    const next = ledger.add(question({ pieces: 1, pace: 0 }), options);
    next.mayBreak = true;
    const before = { ...asked, id: 0, uid: 'q-0', content: next.question };
    assertSees(ledger, stored(before, asked, reply), /q-1 stands behind one that was asked after/);
    entry.acknowledgedAt = next.askedAt + 1;
    assert.deepEqual(discrepancies(ledger, stored(before, asked, reply)), []);
  });

  it('detects a reader that gets a different text than before', () => {
    const { ledger, entry, asked, reply } = told();
    entry.show('something else');
    assertSees(ledger, stored(asked, reply), /was shown .* after something else/);
  });
});
