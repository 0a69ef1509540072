import express, { type Express } from 'express';
import type { Logger } from 'pino';
import type { Metrics } from '../domain/metrics.ts';
import type { Clock } from '../domain/runtime.ts';
import type { RequestContext } from '../request-context.ts';
import type { ApiKeyService } from '../services/access/api-keys.ts';
import type { SignedLinks } from '../services/access/signed-links.ts';
import type { ChatService } from '../services/chat/chat.ts';
import type { StreamService } from '../services/chat/streams.ts';
import type { ConversationService } from '../services/conversations/conversations.ts';
import type { ForkService } from '../services/conversations/forks.ts';
import type { CursorCodec } from '../services/exports/cursor-codec.ts';
import type { ExportService } from '../services/exports/exports.ts';
import type { ExportJobService } from '../services/exports/jobs.ts';
import type { HealthService } from '../services/health.ts';
import type { ImportService } from '../services/imports/imports.ts';
import type { ModelList } from '../services/models.ts';
import { trustedProxies } from './access/client-subject.ts';
import { createGuard, type GuardOptions, type GuardParts } from './access/guard.ts';
import type { Quotas } from './access/quotas.ts';
import { errorHandler, notFound } from './middleware/errors.ts';
import { hostAllowlist } from './middleware/host.ts';
import { requestLogger } from './middleware/request-logger.ts';
import { crossOrigin, securityHeaders } from './middleware/security.ts';
import { normalizeTarget } from './middleware/target.ts';
import { completionRoute, type V1Settings } from './openai/completions.ts';
import { modelRoutes } from './openai/models.ts';
import { createBodyReader } from './request/body.ts';
import { base64Chars } from './request/images.ts';
import type { ReplyRenderer } from './response/reply-renderer.ts';
import { mountRoutes, type Route } from './route.ts';
import { chatRoutes } from './routes/chat.ts';
import { conversationRoutes } from './routes/conversations.ts';
import { documentRoutes, mountAssets } from './routes/documents.ts';
import { exportJobRoutes } from './routes/export-jobs.ts';
import { exportRoutes } from './routes/exports.ts';
import { feedbackRoutes } from './routes/feedback.ts';
import { healthRoutes } from './routes/health.ts';
import { importRoute } from './routes/imports.ts';
import { keyRoutes } from './routes/keys.ts';
import { metricsRoute, type ScrapeMetrics } from './routes/metrics.ts';
import { streamRoutes } from './routes/streams.ts';
import type { ChatLimits } from './schemas/chat.ts';

export interface AppOptions extends GuardOptions {
  readonly version: string;
  readonly bodyLimit: number;
  readonly importMaxBytes: number;
  readonly chatLimits: ChatLimits;
  readonly v1: V1Settings;
  readonly corsOrigins: '*' | 'loopback' | readonly string[];
  readonly trustProxy: number | readonly string[];
  /** Allowed `Host` names besides the loopback names; undefined allows all. */
  readonly hosts: readonly string[] | undefined;
  readonly heartbeatMs: number;
  readonly openMs: number;
}

export interface AppParts {
  readonly chat: ChatService;
  readonly streams: StreamService;
  readonly conversations: ConversationService;
  readonly forks: ForkService;
  readonly exports: ExportService;
  readonly exportJobs: ExportJobService;
  readonly imports: ImportService;
  readonly cursors: CursorCodec;
  readonly health: HealthService;
  readonly renderer: ReplyRenderer;
  readonly models: ModelList;
  readonly keys: ApiKeyService;
  readonly links: SignedLinks;
  readonly quotas: Quotas;
  readonly metrics: Metrics;
  readonly scrape: ScrapeMetrics;
  readonly clock: Clock;
  readonly log: Logger;
  readonly context: RequestContext;
}

function apiRoutes(options: AppOptions, parts: AppParts): Route[] {
  const { heartbeatMs, openMs, chatLimits: limits } = options;
  const readBody = createBodyReader(options.bodyLimit);
  const readMessage = createBodyReader(options.bodyLimit, base64Chars(limits.imagesMaxBytes));
  const { chat, streams, renderer, quotas, metrics } = parts;
  const session = { heartbeatMs, openMs, metrics };
  return [
    ...chatRoutes({ chat, renderer, readBody: readMessage, quotas, limits, session }),
    ...streamRoutes({ streams, renderer, session, metrics }),
    completionRoute({
      chat,
      streams,
      renderer,
      readBody: readMessage,
      quotas,
      limits,
      session,
      v1: options.v1,
    }),
    ...modelRoutes(parts.models),
    // Before the conversations, because /api/conversations/:id matches "export-all" too.
    ...exportRoutes(parts.exports, parts.conversations, parts.clock),
    ...feedbackRoutes(parts.conversations, readBody),
    ...conversationRoutes({ conversations: parts.conversations, forks: parts.forks, readBody, limits }),
    ...exportJobRoutes({
      jobs: parts.exportJobs,
      links: parts.links,
      cursors: parts.cursors,
      clock: parts.clock,
      readBody,
      heartbeatMs,
    }),
    importRoute(parts.imports, options.importMaxBytes),
    ...keyRoutes({ keys: parts.keys, readBody }),
    ...healthRoutes(parts.health, options.version),
    metricsRoute(parts.scrape),
  ];
}

export function createApp(options: AppOptions, parts: AppParts): Express {
  const routes = apiRoutes(options, parts);
  return appWith([...routes, ...documentRoutes(routes, options)], options, parts, mountAssets);
}

/** For a port that serves the metrics of this worker alone. */
export function createMetricsApp(
  options: AppOptions,
  parts: GuardParts & Pick<AppParts, 'metrics' | 'scrape' | 'log' | 'context'>,
): Express {
  return appWith([metricsRoute(parts.scrape)], options, parts);
}

function appWith(
  routes: readonly Route[],
  options: AppOptions,
  parts: GuardParts & Pick<AppParts, 'metrics' | 'log' | 'context'>,
  mountMore: (app: Express) => void = () => {},
): Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', false);
  app.set('case sensitive routing', true);
  app.set('strict routing', true);
  app.set('trust proxy', trustedProxies(options.trustProxy));

  app.use(requestLogger(parts.log, parts.context, parts.metrics));
  app.use(securityHeaders());
  if (options.hosts) app.use(hostAllowlist(options.hosts));
  // Before the redirects and errors of the path and query, so that pages of allowed origins can read them.
  app.use(crossOrigin(options.corsOrigins));
  app.use(normalizeTarget());
  mountRoutes(app, routes, createGuard(options, parts));
  mountMore(app);
  app.use(notFound());
  app.use(errorHandler());
  return app;
}
