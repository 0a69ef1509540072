/** Callers that chat, disconnect, resume, repeat requests, stop replies and delete, each in its own conversations. */
import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { ask, deleteConversation, type Outcome, resume, stop, stream } from './caller.ts';
import type { Cluster, Member } from './cluster.ts';
import type { Entry, EntryOptions, Ledger } from './ledger.ts';
import type { Random } from './random.ts';
import { question } from './story.ts';

const TURNS = 5;
/** A caller reports a problem when a request has not succeeded after this time, which is longer than any fault. */
const TIMEOUT_MS = 60_000;

export class Caller {
  readonly #cluster: Cluster;
  readonly #ledger: Ledger;
  readonly #random: Random;
  #conversation: Entry[] = [];

  constructor(cluster: Cluster, ledger: Ledger, random: Random) {
    this.#cluster = cluster;
    this.#ledger = ledger;
    this.#random = random;
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#turn();
      await pause(this.#random.int(0, 300));
      if (this.#conversation.length >= TURNS || this.#random.chance(0.2)) await this.#beginAnother();
    }
  }

  #member(): Member {
    return this.#random.pick(this.#cluster.members);
  }

  async #turn(): Promise<void> {
    const random = this.#random;
    const member = this.#member();
    const conversationId = this.#conversation[0]?.conversationId;
    const keyed = random.chance(0.4);
    const options: EntryOptions = {
      server: member.index,
      format: random.chance(0.8) ? 'markdown' : 'text',
      ...(keyed ? { key: randomBytes(12).toString('hex') } : {}),
      ...(conversationId === undefined ? {} : { conversationId }),
    };
    const plot = { pieces: random.int(1, 80), pace: random.int(0, 30) };
    const entry = this.#ledger.add(question(plot), options);
    // Faults may cut any connection to the model and stop any server.
    entry.mayBreak = true;
    this.#conversation.push(entry);
    const first = random.chance(0.25) ? ask : stream;
    const outcome = await this.#callWithTimeout(first, member, entry, random.chance(0.4) ? 1500 : undefined);
    if (random.chance(0.1) && entry.streamId !== undefined) await stop(this.#member().url, entry);
    if (keyed) await this.#repeatUntilDone(entry, first, outcome);
    else if (first === stream && random.chance(0.8)) await this.#resumeToEnd(entry);
    // Without an id the caller cannot continue the conversation, so its next question begins another one.
    if (entry.conversationId === undefined) this.#conversation = [];
  }

  /** Disconnects after a random time up to `leaveMs`, or after a long silence, which it records. */
  async #callWithTimeout(call: typeof ask, member: Member, entry: Entry, leaveMs?: number): Promise<Outcome> {
    const timeout = AbortSignal.timeout(leaveMs === undefined ? TIMEOUT_MS : this.#random.int(1, leaveMs));
    const outcome = await call(member.url, entry, { signal: timeout });
    if (timeout.aborted && leaveMs === undefined) {
      entry.problems.push(`server ${member.index} let it wait for ${TIMEOUT_MS} ms (${call.name})`);
    }
    return outcome;
  }

  /** With a key: repeats the request until the reply is complete or stopped. */
  async #repeatUntilDone(entry: Entry, call: typeof ask, first: Outcome): Promise<void> {
    const deadline = performance.now() + TIMEOUT_MS;
    for (let outcome = first; entry.end?.kind !== 'done'; ) {
      if (performance.now() > deadline) {
        entry.problems.push(`is not whole after ${TIMEOUT_MS} ms: ${outcome} ${entry.refusals.slice(-5)}`);
        return;
      }
      await pause(this.#random.int(50, 500));
      outcome = await this.#callWithTimeout(call, this.#member(), entry);
    }
  }

  /** Without a key: resumes the stream until its end is received. */
  async #resumeToEnd(entry: Entry): Promise<void> {
    const deadline = performance.now() + TIMEOUT_MS;
    while (entry.acknowledged && !entry.end && entry.problems.length === 0) {
      if (performance.now() > deadline) {
        entry.problems.push(`has no end after ${TIMEOUT_MS} ms: ${entry.refusals.slice(-5)}`);
        return;
      }
      const outcome = await this.#callWithTimeout(
        resume,
        this.#member(),
        entry,
        this.#random.chance(0.2) ? 500 : undefined,
      );
      if (outcome === 'nothing') entry.problems.push('204, although its reader never saw the end');
      if (outcome !== 'ended') await pause(this.#random.int(20, 300));
    }
  }

  /** Begins another conversation, and deletes the old one in 30 % of the cases. */
  async #beginAnother(): Promise<void> {
    const conversation = this.#conversation;
    this.#conversation = [];
    if (conversation[0]?.conversationId === undefined || !this.#random.chance(0.3)) return;
    for (let tries = 0; tries < 5; tries += 1) {
      const status = await deleteConversation(this.#member().url, conversation);
      if (status === 200 || status === 404) return;
      await pause(500);
    }
  }
}
