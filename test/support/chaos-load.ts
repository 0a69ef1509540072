/** Callers who talk, get cut off, come back, repeat themselves, stop and delete, each in conversations of their own. */
import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { ask, forget, type Outcome, resume, stop, stream } from './caller.ts';
import type { Cluster, Member } from './cluster.ts';
import type { Entry, EntryOptions, Ledger } from './ledger.ts';
import type { Random } from './random.ts';
import { question } from './story.ts';

const TURNS = 5;
/** How long a caller tries before he says that something is wrong; longer than any fault lasts. */
const PATIENCE_MS = 60_000;

export class Caller {
  readonly #cluster: Cluster;
  readonly #ledger: Ledger;
  readonly #random: Random;
  #talk: Entry[] = [];

  constructor(cluster: Cluster, ledger: Ledger, random: Random) {
    this.#cluster = cluster;
    this.#ledger = ledger;
    this.#random = random;
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#turn();
      await pause(this.#random.int(0, 300));
      if (this.#talk.length >= TURNS || this.#random.chance(0.2)) await this.#leave();
    }
  }

  #member(): Member {
    return this.#random.pick(this.#cluster.members);
  }

  async #turn(): Promise<void> {
    const random = this.#random;
    const member = this.#member();
    const conversationId = this.#talk[0]?.conversationId;
    const keyed = random.chance(0.4);
    const options: EntryOptions = {
      server: member.index,
      format: random.chance(0.8) ? 'markdown' : 'text',
      ...(keyed ? { key: randomBytes(12).toString('hex') } : {}),
      ...(conversationId === undefined ? {} : { conversationId }),
    };
    const plot = { pieces: random.int(1, 80), pace: random.int(0, 30) };
    const entry = this.#ledger.add(question(plot), options);
    // Any connection to the model may be cut, any server told to stop.
    entry.mayBreak = true;
    this.#talk.push(entry);
    const first = random.chance(0.25) ? ask : stream;
    const outcome = await this.#patiently(first, member, entry, random.chance(0.4) ? 1500 : undefined);
    if (random.chance(0.1) && entry.streamId !== undefined) await stop(this.#member().url, entry);
    if (keyed) await this.#insist(entry, first, outcome);
    else if (first === stream && random.chance(0.8)) await this.#comeBack(entry);
    // Nobody was told its id: what is said next belongs to a conversation of its own.
    if (entry.conversationId === undefined) this.#talk = [];
  }

  /** Disconnects after a random time up to `leaveMs`, or after a long silence, which it records. */
  async #patiently(call: typeof ask, member: Member, entry: Entry, leaveMs?: number): Promise<Outcome> {
    const patience = AbortSignal.timeout(leaveMs === undefined ? PATIENCE_MS : this.#random.int(1, leaveMs));
    const outcome = await call(member.url, entry, { signal: patience });
    if (patience.aborted && leaveMs === undefined) {
      entry.problems.push(`server ${member.index} let it wait for ${PATIENCE_MS} ms (${call.name})`);
    }
    return outcome;
  }

  /** With a key: the same again until the reply is whole, or stopped. */
  async #insist(entry: Entry, call: typeof ask, first: Outcome): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    for (let outcome = first; entry.end?.kind !== 'done'; ) {
      if (performance.now() > deadline) {
        entry.problems.push(`is not whole after ${PATIENCE_MS} ms: ${outcome} ${entry.refusals.slice(-5)}`);
        return;
      }
      await pause(this.#random.int(50, 500));
      outcome = await this.#patiently(call, this.#member(), entry);
    }
  }

  /** Without: on with the stream until its end is known. */
  async #comeBack(entry: Entry): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    while (entry.acknowledged && !entry.end && entry.problems.length === 0) {
      if (performance.now() > deadline) {
        entry.problems.push(`has no end after ${PATIENCE_MS} ms: ${entry.refusals.slice(-5)}`);
        return;
      }
      const outcome = await this.#patiently(
        resume,
        this.#member(),
        entry,
        this.#random.chance(0.2) ? 500 : undefined,
      );
      if (outcome === 'nothing') entry.problems.push('204, although its reader never saw the end');
      if (outcome !== 'ended') await pause(this.#random.int(20, 300));
    }
  }

  /** Begins another conversation; the old one is deleted now and then. */
  async #leave(): Promise<void> {
    const talk = this.#talk;
    this.#talk = [];
    if (talk[0]?.conversationId === undefined || !this.#random.chance(0.3)) return;
    for (let tries = 0; tries < 5; tries += 1) {
      const status = await forget(this.#member().url, talk);
      if (status === 200 || status === 404) return;
      await pause(500);
    }
  }
}
