/** Row "Idempotency replay", over several processes, and over their end. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { z } from 'zod';
import { balance } from '../support/balance.ts';
import { ask, deleteConversation, readToTheEnd, stream } from '../support/caller.ts';
import { databases, until } from '../support/chat-server.ts';
import { type Cluster, startCluster } from '../support/cluster.ts';
import { status } from '../support/fake-upstream.ts';
import { Entry, Ledger } from '../support/ledger.ts';
import { randomised } from '../support/random.ts';
import { query } from '../support/snapshot.ts';
import { question } from '../support/story.ts';

const WORKERS = 3;
const AT_ONCE = 50;

const newKey = () => `key-${randomBytes(8).toString('hex')}`;

/** The same request again, by a caller who knows nothing of the first. */
const again = ({ question: asked, key = '', format }: Entry) => new Entry(asked, { key, format });

for (const place of databases().slice(1)) {
  describe(`a request with an Idempotency-Key, on ${WORKERS} processes on ${place.name},`, () => {
    let cluster: Cluster;
    const ledger = new Ledger();
    before(async () => {
      cluster = await startCluster(WORKERS, await place.create());
    });
    after(async () => {
      await cluster.close();
      await place.drop();
    });

    const callsFor = (asked: string) =>
      cluster.upstream.requests.filter(({ body }) => body.messages.at(-1)?.content === asked).length;
    const url = (n: number) => cluster.at(n % WORKERS).url;

    for (const [name, call] of [
      ['/api/chat', ask],
      ['/api/chat-stream', stream],
    ] as const) {
      it(`to ${name}, ${AT_ONCE} times at the same time: one call, one turn, ${AT_ONCE} equal replies`, async () => {
        const entry = ledger.add(question({ pieces: 40, pace: 20 }), { key: newKey() });
        const others = Array.from({ length: AT_ONCE - 1 }, () => again(entry));
        const outcomes = await Promise.all([entry, ...others].map((one, n) => call(url(n), one)));
        for (const [n, one] of [entry, ...others].entries()) {
          assert.equal(outcomes[n], 'ended', String(one.refusals));
          const { problems, shown, end, streamId, conversationId } = one;
          assert.deepEqual([problems, shown, end], [[], entry.expected, entry.end]);
          assert.deepEqual([streamId, conversationId], [entry.streamId, entry.conversationId]);
        }
        assert.equal(callsFor(entry.question), 1);
        await balance(ledger, cluster.place);
      });
    }

    it(
      'is replayed after its process was killed, without a call; one whose process is killed during the reply is generated again at the next try, its question stored once',
      randomised(async (random) => {
        const calls = [ask, stream];
        const ended = calls.map(() =>
          ledger.add(question({ pieces: 5, pace: 1 }), { key: newKey(), server: 2 }),
        );
        /** Sends the same requests to this server, which must give equal replies. */
        const repeat = async (server: number) => {
          for (const [n, entry] of ended.entries()) {
            const one = again(entry);
            assert.equal(await calls[n]?.(url(server), one), 'ended');
            assert.deepEqual([one.problems, one.shown, one.streamId], [[], entry.shown, entry.streamId]);
            assert.equal(callsFor(entry.question), 1);
          }
        };
        for (const [n, entry] of ended.entries()) assert.equal(await calls[n]?.(url(2), entry), 'ended');
        const entries = Array.from({ length: 6 }, () =>
          ledger.add(question({ pieces: 60, pace: 20 }), { key: newKey(), server: 2 }),
        );
        const readings = entries.map((entry) => stream(url(2), entry));
        await new Promise((resolve) => setTimeout(resolve, random.int(50, 900)));
        await cluster.at(2).kill(ledger);
        await Promise.all(readings);
        await repeat(1);
        await cluster.at(2).start();
        await repeat(2);
        // Joined until its worker is reaped, then generated again.
        for (const entry of entries) {
          await insist(entry);
          assert.equal(entry.shown, entry.expected);
          assert(callsFor(entry.question) <= 2);
        }
        await balance(ledger, cluster.place);
      }),
    );

    it('whose process is killed during the reply has one visible reply when it is repeated while its lease runs, and after it', async () => {
      const calls = [ask, stream, ask, stream];
      const entries = calls.map(() =>
        ledger.add(question({ pieces: 30, pace: 40 }), { key: newKey(), server: 2 }),
      );
      const first = entries.map((entry, n) => calls[n]?.(url(2), entry));
      const running = async () => {
        const rows = await query(cluster.place, "SELECT content FROM messages WHERE status = 'streaming'");
        return rows.map((row) => z.object({ content: z.string() }).parse(row).content.length);
      };
      // The text of a whole reply comes at its end.
      await until('all replies have begun', async () => {
        const lengths = await running();
        return lengths.length === 4 && lengths.filter((length) => length > 0).length === 2;
      });
      await cluster.at(2).kill(ledger);
      await Promise.all(first);
      const repeat = (some: readonly Entry[]) =>
        Promise.all(some.map((entry, n) => insist(entry, WORKERS - 1, calls[n])));
      const early = repeat(entries.slice(0, 2));
      await until('the replies are closed', async () => (await running()).length === 0);
      await Promise.all([early, repeat(entries.slice(2))]);
      await cluster.at(2).start();
      for (const entry of entries) await assertOneReply(entry);
      await balance(ledger, cluster.place);
    });

    /** In the conversation, in an export and in what the model is sent with the next question. */
    async function assertOneReply(entry: Entry): Promise<void> {
      const { conversationId, question: asked, expected } = entry;
      const wanted = [asked, expected];
      const read = async (path: string) => (await fetch(`${url(0)}${path}`)).text();
      const shape = z.object({ messages: z.array(z.object({ content: z.string() })) });
      const contentsOf = (text: string) =>
        shape.parse(JSON.parse(text)).messages.map(({ content }) => content);
      assert.deepEqual(contentsOf(await read(`/api/conversations/${conversationId}`)), wanted);
      const lines = (await read('/api/conversations/export-all?format=ndjson')).split('\n');
      const line = lines.find((one) => one.includes(`"${conversationId}"`)) ?? '';
      assert.deepEqual(contentsOf(line), wanted);
      const next = ledger.add(question({ pieces: 1, pace: 1 }), conversationId ? { conversationId } : {});
      assert.equal(await ask(url(1), next), 'ended');
      const sent = cluster.upstream.requests.find(
        ({ body }) => body.messages.at(-1)?.content === next.question,
      );
      assert.deepEqual(
        sent?.body.messages.filter(({ role }) => role !== 'system').map(({ content }) => content),
        [...wanted, next.question],
      );
    }

    /** As a good client does it: again with the same key until the reply is whole. */
    async function insist(entry: Entry, members = WORKERS, call = stream): Promise<void> {
      for (let n = 0; entry.end?.kind !== 'done'; n += 1) {
        assert(n < 50, `${entry.refusals} ${JSON.stringify(entry.end)}`);
        if ((await call(url(n % members), entry)) !== 'ended')
          await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }

    it('whose model failed is free again: the retry writes no second question', async () => {
      for (const call of [ask, stream]) {
        cluster.upstream.respond([status(400)]);
        const entry = ledger.add(question({ pieces: 5, pace: 1 }), { key: newKey() });
        entry.mayBreak = true;
        await call(url(0), entry);
        assert.notEqual(entry.end?.kind, 'done');
        assert.equal(await call(url(1), entry), 'ended', String(entry.refusals));
        assert.equal(entry.end?.kind, 'done');
        assert.equal(callsFor(entry.question), 2);
      }
      await balance(ledger, cluster.place);
    });

    it('is a new request after its conversation was deleted', async () => {
      const key = newKey();
      const entry = ledger.add(question({ pieces: 3, pace: 1 }), { key });
      assert.equal(await ask(url(0), entry), 'ended');
      assert.equal(await deleteConversation(url(1), [entry]), 200);
      const next = ledger.add(question({ pieces: 4, pace: 1 }), { key });
      assert.equal(await ask(url(2), next), 'ended', String(next.refusals));
      await balance(ledger, cluster.place);
    });

    it('with another body is 422 on every process, and 400 with a malformed key', async () => {
      const entry = ledger.add(question({ pieces: 3, pace: 1 }), { key: newKey() });
      assert.equal(await ask(url(0), entry), 'ended');
      const post = async (at: number, path: string, key: string) => {
        const init = {
          method: 'POST',
          headers: { 'content-type': 'application/json', 'idempotency-key': key },
        };
        const response = await fetch(`${url(at)}${path}`, { ...init, body: '{"message":"something else"}' });
        await response.arrayBuffer();
        return response.status;
      };
      for (let n = 0; n < WORKERS; n += 1) assert.equal(await post(n, '/api/chat', entry.key ?? ''), 422);
      for (const bad of ['a'.repeat(256), '', 'a\tb']) {
        assert.equal(await post(0, '/api/chat', bad), 400, JSON.stringify(bad));
        assert.equal(await post(0, '/api/chat-stream', bad), 400, JSON.stringify(bad));
      }
      await balance(ledger, cluster.place);
    });

    it(
      'resumes the stream when a disconnected reader repeats it',
      randomised(async (random) => {
        const entries = Array.from({ length: 10 }, () =>
          ledger.add(question({ pieces: 60, pace: 10 }), { key: newKey() }),
        );
        await Promise.all(
          entries.map(async (entry) => {
            await stream(url(random.int(0, WORKERS - 1)), entry, { after: random.int(0, 20) });
            if (random.chance(0.5)) await stream(url(random.int(0, WORKERS - 1)), entry);
            await readToTheEnd(() => url(random.int(0, WORKERS - 1)), entry);
            assert.equal(callsFor(entry.question), 1);
          }),
        );
        await balance(ledger, cluster.place);
      }),
    );
  });
}
