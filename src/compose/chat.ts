import { createResponseCache } from '../cache/response-cache.ts';
import type { Config } from '../config/config.ts';
import type { ChatModel } from '../domain/chat/model.ts';
import { Retention } from '../domain/conversations/retention.ts';
import type { Metrics } from '../domain/metrics.ts';
import type { BreakerOptions } from '../llm/breaker.ts';
import { startDemoModel } from '../llm/demo/demo.ts';
import { withFallback } from '../llm/fallback.ts';
import { createChatModel, type ModelOptions } from '../llm/model.ts';
import type { ClientOptions } from '../llm/transport/client.ts';
import type { Logger } from '../logger.ts';
import { createTextFormat } from '../markdown/index.ts';
import { ChatService } from '../services/chat/chat.ts';
import { Checkpoints } from '../services/chat/checkpoints.ts';
import { Generations } from '../services/chat/generations.ts';
import { IdempotentTurns } from '../services/chat/idempotent-turns.ts';
import { InputFilter } from '../services/chat/request/input-filter.ts';
import { StoredStreams } from '../services/chat/stored-streams.ts';
import { StreamService } from '../services/chat/streams.ts';
import { TurnObserver } from '../services/chat/timing/turn-observer.ts';
import { TurnRecorder } from '../services/chat/turn-recorder.ts';
import { ConversationService } from '../services/conversations/conversations.ts';
import { ForkService } from '../services/conversations/forks.ts';
import type { ExportThrottle } from '../services/exports/throttle.ts';
import { HealthService } from '../services/health.ts';
import type { ContentFilter } from '../startup/open-content-filter.ts';
import type { Core } from './core.ts';

/**
 * The client of the model server, or of the demo model when none is configured.
 * @param textMaxBytes the longest reply that can be stored
 */
export async function openModel(
  config: Config,
  log: Logger,
  textMaxBytes: () => number,
  metrics: Pick<Metrics, 'attemptFailed' | 'fallbackCalled'>,
  breaker: Partial<BreakerOptions> = {},
) {
  const demo = config.model.demo ? await startDemoModel() : undefined;
  const { fallback } = config.model;
  const open = (server: Partial<ClientOptions & Pick<ModelOptions, 'refused'>>, serverLog = log) => {
    const options = {
      ...config.model,
      ...server,
      // Each of two servers gets half of the time for a whole reply.
      timeoutMs: config.model.timeoutMs / (fallback ? 2 : 1),
      breaker,
      get replyMaxBytes() {
        return Math.min(config.model.replyMaxBytes, textMaxBytes());
      },
    };
    return createChatModel(options, serverLog, metrics);
  };
  const primary = open(demo ? { baseUrl: demo.baseUrl } : {});
  const model = fallback
    ? withFallback(
        primary,
        open(
          { baseUrl: fallback.baseUrl, apiKey: fallback.apiKey, headers: {}, refused: [] },
          log.child({ upstream: 'fallback' }),
        ),
        { model: fallback.model, firstTokenTimeoutMs: config.model.firstTokenTimeoutMs },
        log,
        metrics,
      )
    : primary;
  const close = async () => {
    await model.close();
    await demo?.close();
  };
  return { model, close };
}

/** Turns, streams, conversations and their health. */
export function composeChat(core: Core, model: ChatModel, filter: ContentFilter, throttle: ExportThrottle) {
  const { config, database, writer, metrics, worker, clock, ids, log } = core;
  const { conversations, replies } = database;
  const { maxGenerations } = config.chat;
  const retention = new Retention(config.chat.ttlMs);
  const cache = createResponseCache(config.cache.maxBytes, config.cache.ttlMs);
  const generations = new Generations(model, cache, createTextFormat(), maxGenerations, log);
  const checkpoints = new Checkpoints(
    { writer, replies, metrics, worker, log },
    config.durability.checkpointMs,
  );
  const recorder = new TurnRecorder({ writer, checkpoints, worker, clock, log }, retention);
  const stored = new StoredStreams({ replies, pending: writer, log }, retention);
  const dropConversation = async (conversationId: string) => {
    recorder.dropConversation(conversationId);
    await writer.drop(conversationId);
  };
  return {
    generations,
    turns: recorder,
    chat: new ChatService(
      { ...config.chat, retention, cacheByOwner: config.cacheByOwner },
      {
        conversations,
        pending: writer,
        generations,
        recorder,
        idempotent: new IdempotentTurns(replies, recorder, stored),
        observer: new TurnObserver(metrics, config.slow, log),
        throttle,
        filter: filter.input && new InputFilter(filter.input, !config.filter.store),
        clock,
        ids,
      },
    ),
    streams: new StreamService({ recorder, stored, replies, pending: writer, clock }, retention),
    conversations: new ConversationService(conversations, writer, clock, ids, retention, dropConversation),
    forks: new ForkService({ conversations, forks: database.forks, pending: writer, clock, ids }, retention),
    health: new HealthService(conversations, model, writer, config.model.demo, core.isWritable),
  };
}
