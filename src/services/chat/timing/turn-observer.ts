import { AppError } from '../../../domain/errors.ts';
import {
  type FailureCode,
  type Metrics,
  partEntries,
  type TurnPart,
  type TurnPartTimes,
} from '../../../domain/metrics.ts';
import type { Log } from '../../../domain/runtime.ts';
import type { Turn, TurnResult } from '../turn.ts';
import type { TurnTimes } from './turn-times.ts';

export interface SlowLimits {
  readonly firstTokenMs: number;
  readonly replyMs: number;
}

type TurnMetrics = Pick<Metrics, 'cacheUsed' | 'idempotentReplay' | 'turnEnded' | 'slowCall'>;

/** Reports each turn when it has ended, and logs those that were slow. */
export class TurnObserver {
  readonly #metrics: TurnMetrics;
  readonly #limits: SlowLimits;
  readonly #log: Pick<Log, 'warn'>;

  constructor(metrics: TurnMetrics, limits: SlowLimits, log: Pick<Log, 'warn'>) {
    this.#metrics = metrics;
    this.#limits = limits;
    this.#log = log;
  }

  began(turn: Turn): void {
    const { cache, times, replayed } = turn;
    if (replayed) this.#metrics.idempotentReplay();
    if (replayed || !cache || !times) return;
    this.#metrics.cacheUsed(cache.kind);
    turn.result.then(
      (result) => this.#ended(turn, times, result, undefined),
      (error: unknown) => this.#ended(turn, times, undefined, codeOf(error)),
    );
  }

  /** A turn that could not begin. */
  failed(model: string, error: unknown, times: TurnTimes): void {
    const { totalMs: ms } = times;
    const none = { firstMs: undefined, generationMs: undefined, usage: null, parts: {} };
    this.#metrics.turnEnded({ model, ms, ...none, failure: codeOf(error) });
  }

  #ended(turn: Turn, times: TurnTimes, result: TurnResult | undefined, code: FailureCode | undefined): void {
    const { generation } = turn.reply;
    const parts = times.parts(turn.cached ? undefined : generation);
    const firstMs = times.firstMs(generation);
    const ms = times.totalMs;
    const isOwnCall = turn.cache?.kind === 'miss' || turn.cache?.kind === 'bypass';
    const failure = code ?? (result?.finishReason === 'cancelled' ? 'cancelled' : undefined);
    this.#metrics.turnEnded({
      model: turn.model,
      ms,
      firstMs,
      generationMs: isOwnCall && firstMs !== undefined ? parts.generation : undefined,
      usage: result?.usage ?? null,
      parts,
      failure,
    });
    const isFirstSlow = (firstMs ?? 0) > this.#limits.firstTokenMs;
    if (!isFirstSlow && ms <= this.#limits.replyMs) return;
    const part = longest(isFirstSlow ? { ...parts, generation: 0 } : parts);
    this.#metrics.slowCall(part);
    const { conversationId: conversation_id, messageId: message_id, model } = turn;
    const fields = {
      conversation_id,
      message_id,
      model,
      part,
      ...loggedParts(parts),
      total_ms: Math.round(ms),
    };
    this.#log.warn(fields, 'slow call');
  }
}

function codeOf(error: unknown): FailureCode {
  return error instanceof AppError ? error.code : 'internal';
}

function longest(parts: TurnPartTimes): TurnPart {
  let found: TurnPart = 'queue';
  for (const [part, ms] of partEntries(parts)) if (ms > (parts[found] ?? 0)) found = part;
  return found;
}

function loggedParts(parts: TurnPartTimes): Record<string, number> {
  return Object.fromEntries([...partEntries(parts)].map(([part, ms]) => [`${part}_ms`, Math.round(ms)]));
}
