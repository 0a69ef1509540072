/** Compares a ledger with the database: every turn that a caller was sent must be stored once, and nothing else. */
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { type End, type Entry, excerpt, type Ledger, type ReceivedReply } from './ledger.ts';
import { type Snapshot, type StoredIn, type StoredMessage, takeSnapshot } from './snapshot.ts';

const SETTLE_MS = 30_000;
const SHOWN_PROBLEMS = 12;

export interface BalanceOptions {
  /** How long to wait until everything is stored, in milliseconds. */
  readonly withinMs?: number;
  /** Questions that must not be stored. */
  readonly absent?: readonly string[];
}

/** Compares until there is no difference; fails with the differences when the time is over. */
export async function balance(
  ledger: Ledger,
  place: StoredIn,
  { withinMs = SETTLE_MS, absent = [] }: BalanceOptions = {},
): Promise<Snapshot> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const stored = await takeSnapshot(place);
    const problems = [...discrepancies(ledger, stored), ...unwanted(stored, absent)];
    if (problems.length === 0) return stored;
    if (performance.now() > deadline) {
      const shown = problems.slice(0, SHOWN_PROBLEMS).join('\n  ');
      assert.fail(`the ledger does not balance, ${problems.length} problems:\n  ${shown}`);
    }
    await pause(100);
  }
}

/** All differences, one line each. */
export function discrepancies(ledger: Ledger, stored: Snapshot): string[] {
  const problems = integrityOf(stored);
  const questions = groupBy(stored.messages, ({ role, content }) => (role === 'user' ? content : undefined));
  const replies = groupBy(stored.messages, ({ reply_to }) => reply_to ?? undefined);
  for (const entry of ledger.entries) {
    const asked = questions.get(entry.question) ?? [];
    const found = [...entry.problems, ...problemsOf(ledger, entry, asked, replies)];
    problems.push(...found.map((problem) => `${label(entry)}: ${problem}`));
    questions.delete(entry.question);
  }
  for (const content of questions.keys())
    problems.push(`is stored but was never sent: ${JSON.stringify(content)}`);
  return [...problems, ...disorder(ledger, stored)];
}

function integrityOf({ messages, conversations }: Snapshot): string[] {
  const problems: string[] = [];
  const byUid = new Map<string, StoredMessage>();
  for (const message of messages) {
    if (byUid.has(message.uid)) problems.push(`the uid ${message.uid} is there twice`);
    byUid.set(message.uid, message);
    if (!conversations.has(message.conversation_id)) problems.push(`${message.uid} has no conversation`);
    if (message.status === 'streaming') problems.push(`${message.uid} is still streaming`);
  }
  for (const { uid, role, reply_to, conversation_id } of messages) {
    if (role === 'user') continue;
    const question = byUid.get(reply_to ?? '');
    if (question?.role !== 'user' || question.conversation_id !== conversation_id) {
      problems.push(`the reply ${uid} has no question`);
    }
  }
  return problems;
}

function problemsOf(
  ledger: Ledger,
  entry: Entry,
  asked: readonly StoredMessage[],
  replies: ReadonlyMap<string, readonly StoredMessage[]>,
): string[] {
  if (entry.deletion !== 'none') {
    if (asked.length === 0) return [];
    if (entry.deletion === 'done') return ['is there although it was deleted'];
    if (entry.deletion === 'not found') return ['is there although its deletion was answered with 404'];
  }
  if (asked.length > 1) return [`its question is stored ${asked.length} times`];
  const [question] = asked;
  if (!question) return entry.acknowledged ? ['was acknowledged, but its question is not stored'] : [];
  const wrongPlace = entry.conversationId !== undefined && question.conversation_id !== entry.conversationId;
  return [
    ...(wrongPlace ? ['is in another conversation than its caller was told'] : []),
    ...answerProblems(ledger, entry, replies.get(question.uid) ?? []),
  ];
}

/** A question has one reply. A failed one was replaced if a request with the same key followed. */
function answerProblems(ledger: Ledger, entry: Entry, answers: readonly StoredMessage[]): string[] {
  const { key, reply, end } = entry;
  const own = answers.find(({ uid }) => uid === reply.streamId);
  const others = answers.filter((answer) => answer !== own);
  const count = `has ${answers.length} replies`;
  if (!own && reply.streamId !== undefined && key !== undefined && end?.kind !== 'done') {
    // The caller did not learn the id of the reply that replaced its own.
    const wrong = others.filter(({ content }) => !entry.expected.startsWith(content));
    const texts = wrong.map(({ content }) => `stored is ${excerpt(content, entry.expected)}`);
    return [...(others.length > 1 ? [count] : []), ...texts];
  }
  const unnamed = reply.streamId === undefined ? others.pop() : undefined;
  return [...(others.length > 0 ? [count] : []), ...replyProblems(ledger, entry, reply, own ?? unnamed)];
}

function replyProblems(ledger: Ledger, entry: Entry, reply: ReceivedReply, stored?: StoredMessage): string[] {
  if (!stored) return absenceProblems(ledger, entry, reply);
  const { content, status } = stored;
  const problems: string[] = [];
  if (!entry.expected.startsWith(content)) problems.push(`stored is ${excerpt(content, entry.expected)}`);
  if (entry.format === 'markdown') problems.push(...shownProblems(ledger, entry, reply, content));
  return [...problems, ...statusProblems(ledger, entry, reply.end, content, status)];
}

function absenceProblems(ledger: Ledger, entry: Entry, reply: ReceivedReply): string[] {
  const { shown, end, streamId } = reply;
  const durable = ledger.durable(entry, reply) ?? shown.length;
  if (durable > 0 || end?.kind === 'done') return [`its reply ${streamId} was shown and is not stored`];
  return entry.mayBreak || entry.refusals.length > 0 || ledger.crashed(entry) ? [] : ['has no reply'];
}

/** For Markdown: the received and the stored text must be equal, except for what a crash may lose. */
function shownProblems(ledger: Ledger, entry: Entry, reply: ReceivedReply, content: string): string[] {
  const { shown, end } = reply;
  if (shown === content) return [];
  if (end?.kind === 'done') return [`was done with another text: ${excerpt(shown, content)}`];
  if (content.startsWith(shown)) return [];
  if (end?.kind === 'error' && end.stored !== undefined && end.stored !== content.length) {
    return [`its reader was told that ${end.stored} units are stored, ${content.length} are`];
  }
  const durable = ledger.durable(entry, reply);
  if (durable === undefined || !shown.startsWith(content)) {
    return [`what was shown is no prefix of what is stored: ${excerpt(shown, content)}`];
  }
  if (content.length >= durable) return [];
  return [`${durable} units had been shown long before the crash, ${content.length} are stored`];
}

function statusProblems(
  ledger: Ledger,
  entry: Entry,
  end: End | undefined,
  content: string,
  status: StoredMessage['status'],
): string[] {
  const problems: string[] = [];
  if (end?.kind === 'done') {
    if (!end.persisted && !ledger.databaseWasAway) problems.push('persisted: false, with a database there');
    const wanted = { cancelled: 'cancelled', length: 'incomplete' }[end.finishReason] ?? 'complete';
    if (status !== wanted) problems.push(`was done with ${end.finishReason} and is stored as ${status}`);
  }
  // A reply that neither database nor journal accepted ends with an error, but a retry may save it later.
  if (end?.kind === 'error' && end.code !== 'database_unavailable' && status === 'complete')
    problems.push('ended with an error, stored as complete');
  if (status === 'complete' && content !== entry.expected) {
    problems.push(`is complete with ${excerpt(content, entry.expected)}`);
  }
  const excused = entry.mayBreak || ledger.crashed(entry);
  if (status === 'incomplete' && !excused) problems.push('is incomplete without a reason');
  if (status === 'cancelled' && !entry.stopAsked) problems.push('is cancelled without a request to stop it');
  return problems;
}

/**
 * An acknowledged question must be stored before later questions of its conversation, and each reply after its
 * question.
 */
function disorder(ledger: Ledger, { messages }: Snapshot): string[] {
  const problems: string[] = [];
  const entries = new Map(ledger.entries.map((entry) => [entry.question, entry]));
  /** By conversation: when the latest question so far was asked. */
  const latest = new Map<string, number>();
  const seen = new Set<string>();
  for (const { uid, role, content, reply_to, conversation_id } of messages) {
    if (role === 'assistant') {
      if (!seen.has(reply_to ?? '')) problems.push(`the reply ${uid} stands before its question`);
      continue;
    }
    seen.add(uid);
    const entry = entries.get(content);
    const before = latest.get(conversation_id) ?? Number.NEGATIVE_INFINITY;
    if (!entry) continue;
    if (before > (entry.acknowledgedAt ?? Number.POSITIVE_INFINITY)) {
      problems.push(`the question ${uid} stands behind one that was asked after it was acknowledged`);
    }
    latest.set(conversation_id, Math.max(before, entry.askedAt));
  }
  return problems;
}

function unwanted({ messages }: Snapshot, absent: readonly string[]): string[] {
  const unwantedQuestions = new Set(absent);
  return messages.flatMap(({ content }) =>
    unwantedQuestions.has(content) ? [`stored although it never came whole: ${content}`] : [],
  );
}

function label({ question, key, end, streamId, shown }: Entry): string {
  const how = end ? (end.kind === 'done' ? `done ${end.finishReason}` : `error ${end.code}`) : 'no end seen';
  return `"${question}"${key === undefined ? '' : ` key ${key}`} (${streamId ?? 'no start'}, ${how}, ${shown.length} shown)`;
}

function groupBy<T>(list: readonly T[], keyOf: (item: T) => string | undefined): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of list) {
    const key = keyOf(item);
    if (key === undefined) continue;
    groups.set(key, [...(groups.get(key) ?? []), item]);
  }
  return groups;
}
