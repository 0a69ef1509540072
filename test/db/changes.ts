/** Random changes to conversations, and a reader that follows them by exports. */
import type { TestContext } from 'node:test';
import type { Database } from '../../src/db/database.ts';
import { KnexExportSource } from '../../src/db/exports/reader.ts';
import { WorkerRegistry } from '../../src/db/workers/registry.ts';
import { UNRESTRICTED } from '../../src/domain/access/access.ts';
import type { Message } from '../../src/domain/conversations/conversation.ts';
import { Retention } from '../../src/domain/conversations/retention.ts';
import type { ExportCursor } from '../../src/domain/exports/exports.ts';
import type { ExportFormat, ExportRequest } from '../../src/domain/exports/jobs.ts';
import { CursorCodec } from '../../src/services/exports/cursor-codec.ts';
import { ExportService } from '../../src/services/exports/exports.ts';
import { silent } from '../support/databases.ts';
import { Replica } from '../support/replica.ts';
import { newId, purgeBatch, replyTo, startOf, userMessage } from './fixtures.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

const NOTHING = {
  position: null,
  conversations: 0,
  messages: 0,
  deleted: 0,
  bytes: 0,
  firstMessageId: null,
  lastMessageId: null,
};

/** Clocks are moved by hand. */
export function clockOf(t: TestContext) {
  const real = Date.now.bind(Date);
  let passed = 0;
  t.mock.method(Date, 'now', () => real() + passed);
  const pass = (ms: number) => {
    passed += ms;
  };
  return { now: () => Date.now(), pass };
}

export type Clock = ReturnType<typeof clockOf>;

/** Someone who exports again and again, and applies what comes. */
export class Follower {
  readonly replica = new Replica();
  readonly #service: ExportService;
  #cursor: ExportCursor | null = null;

  constructor(database: Database, clock: Clock, page?: number) {
    const codec = new CursorCodec(async () => ['secret']);
    const source = new KnexExportSource(database.knex, page);
    this.#service = new ExportService(source, codec, clock, new Retention(0));
  }

  /** @param between runs after each piece of the file */
  async text(
    format: ExportFormat = 'ndjson',
    between: () => Promise<void> = () => Promise.resolve(),
  ): Promise<string> {
    const request: ExportRequest = {
      format,
      raw: false,
      compression: 'none',
      filter: { owner: null, from: null, to: null, role: null, status: null },
      since: this.#cursor,
      notify: { email: null, webhook: null },
    };
    const scope = await this.#service.fixScope(request);
    let text = '';
    for await (const piece of this.#service.fileText(request, scope, NOTHING)) {
      text += piece.text;
      await between();
    }
    if (format === 'ndjson') this.#cursor = { at: scope.exportedAt };
    return text;
  }

  async follow(between?: () => Promise<void>) {
    return this.replica.apply(await this.text('ndjson', between));
  }
}

interface Written {
  readonly question: Message;
  readonly uid: string;
  readonly worker: string;
  content: string;
  /** It was given up for dead. */
  dead: boolean;
}

/** Everything that happens to conversations, by the parts of the program that do it. */
export class World {
  readonly database: Database;
  readonly clock: Clock;
  #conversations: string[] = [];
  /** Replies that are being written, with their processes; also those that were given up for dead. */
  #replies: Written[] = [];

  constructor(database: Database, clock: Clock) {
    this.database = database;
    this.clock = clock;
  }

  /** What happens, and a number that says to what and how. */
  readonly acts: Readonly<Record<string, (n: number) => unknown>> = {
    begin: (n) => this.#turn(newId(), n),
    'go on': (n) => this.#turn(this.#id(n), n),
    'begin anew': (n) => this.#turn(this.#id(n), n, { expiredBefore: this.clock.now() + HOUR }),
    replay: (n) => this.#turn(n % 2 ? this.#id(n) : newId(), n, { timestamp: this.clock.now() - 20 * HOUR }),
    stream: (n) => this.#stream(n % 2 ? this.#id(n) : newId(), n),
    grow: (n) => this.#grow(n),
    end: (n) => this.#end(n, { status: n % 3 === 0 ? 'incomplete' : 'complete' }),
    fail: (n) => this.#fail(n),
    stop: (n) => this.database.replies.cancel(this.#reply(n)?.uid ?? newId()),
    die: (n) => this.#die(n),
    delete: (n) => this.database.conversations.delete(this.#id(n), UNRESTRICTED),
    purge: (n) => purgeBatch(this.database.purge, this.clock.now() - n * MINUTE, 3),
    pass: (n) => this.clock.pass(n * MINUTE),
  };

  async do(kind: string, n: number): Promise<void> {
    await this.acts[kind]?.(n);
  }

  #id(n: number): string {
    return this.#conversations[n % Math.max(1, this.#conversations.length)] ?? newId();
  }

  #reply(n: number): Written | undefined {
    return this.#replies[n % Math.max(1, this.#replies.length)];
  }

  async #turn(id: string, n: number, over: { timestamp?: number; expiredBefore?: number } = {}) {
    const { timestamp = this.clock.now(), expiredBefore = 0 } = over;
    const question = userMessage(id, { timestamp, content: `question ${n} 你好` });
    const reply = replyTo(question, { timestamp, content: `"answer"\n${n} 😀` });
    const start = startOf(question, { expiredBefore });
    const { writer } = this.database;
    await writer.write({ start, replayed: over.timestamp !== undefined });
    await writer.write({ reply, replayed: over.timestamp !== undefined });
    this.#conversations.push(id);
  }

  async #stream(id: string, n: number) {
    const question = userMessage(id, { timestamp: this.clock.now() });
    const content = n % 3 === 0 ? '' : 'first words';
    const reply = replyTo(question, { status: 'streaming', content, finishReason: null, usage: null });
    const worker = `00000000-0000-4000-8000-00000000000${n % 3}`;
    await this.database.writer.write({ start: startOf(question, { expiredBefore: 0 }), reply, worker });
    this.#conversations.push(id);
    this.#replies.push({ question, uid: reply.uid, worker, content, dead: false });
  }

  async #grow(n: number) {
    const reply = this.#reply(n);
    if (!reply) return;
    reply.content += ` and ${n}`;
    await this.database.writer.progress({
      ...reply,
      reasoningAfter: () => '',
      after: (length) => reply.content.slice(length),
    });
  }

  async #end(n: number, over: Partial<Message>) {
    const reply = this.#reply(n);
    if (!reply) return;
    const { question, uid, content } = reply;
    this.#replies = this.#replies.filter((one) => one !== reply);
    await this.database.writer.write({ reply: { ...replyTo(question), uid, content, ...over } });
  }

  /** Only what has said nothing may end so. */
  async #fail(n: number) {
    const reply = this.#reply(n);
    if (reply?.content !== '' || reply.dead) return;
    await this.#end(n, { status: 'incomplete', finishReason: 'error' });
  }

  async #die(n: number) {
    const worker = this.#reply(n)?.worker;
    if (worker === undefined) return;
    await this.#registry().reapDead([worker]);
    for (const one of this.#replies) one.dead ||= one.worker === worker;
  }

  #registry() {
    return new WorkerRegistry(this.database.knex, { id: newId(), leaseMs: 1000 }, silent);
  }
}
