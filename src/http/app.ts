import express, { type Express } from 'express';
import type { Logger } from 'pino';
import type { Clock } from '../domain/runtime.ts';
import type { RequestContext } from '../request-context.ts';
import type { ApiKeyService } from '../services/access/api-keys.ts';
import type { SignedLinks } from '../services/access/signed-links.ts';
import type { ChatService } from '../services/chat/chat.ts';
import type { StreamService } from '../services/chat/streams.ts';
import type { ConversationService } from '../services/conversations/conversations.ts';
import type { CursorCodec } from '../services/exports/cursor-codec.ts';
import type { ExportService } from '../services/exports/exports.ts';
import type { ExportJobService } from '../services/exports/jobs.ts';
import type { HealthService } from '../services/health.ts';
import { trustedProxies } from './access/client-subject.ts';
import { createGuard } from './access/guard.ts';
import type { Quotas } from './access/quotas.ts';
import { errorHandler, notFound } from './middleware/errors.ts';
import { hostAllowlist } from './middleware/host.ts';
import { requestLogger } from './middleware/request-logger.ts';
import { crossOrigin, securityHeaders } from './middleware/security.ts';
import { normalizeTarget } from './middleware/target.ts';
import { createBodyReader } from './request/body.ts';
import type { ReplyRenderer } from './response/reply-renderer.ts';
import { mountRoutes, type Route } from './route.ts';
import { chatRoutes } from './routes/chat.ts';
import { conversationRoutes } from './routes/conversations.ts';
import { documentRoutes, mountAssets } from './routes/documents.ts';
import { exportJobRoutes } from './routes/export-jobs.ts';
import { exportRoutes } from './routes/exports.ts';
import { healthRoutes } from './routes/health.ts';
import { keyRoutes } from './routes/keys.ts';
import { streamRoutes } from './routes/streams.ts';

export interface AppOptions {
  readonly version: string;
  readonly bodyLimit: number;
  readonly messageMaxChars: number;
  readonly corsOrigins: '*' | 'loopback' | readonly string[];
  readonly trustProxy: number | readonly string[];
  /** Whether authentication is on. */
  readonly required: boolean;
  /** Allowed names in the Host header, beside the loopback's; undefined: any. */
  readonly hosts: readonly string[] | undefined;
  readonly heartbeatMs: number;
  readonly openMs: number;
}

export interface AppParts {
  readonly chat: ChatService;
  readonly streams: StreamService;
  readonly conversations: ConversationService;
  readonly exports: ExportService;
  readonly exportJobs: ExportJobService;
  readonly cursors: CursorCodec;
  readonly health: HealthService;
  readonly renderer: ReplyRenderer;
  readonly keys: ApiKeyService;
  readonly links: SignedLinks;
  readonly quotas: Quotas;
  readonly clock: Clock;
  readonly log: Logger;
  readonly context: RequestContext;
}

function apiRoutes(options: AppOptions, parts: AppParts): Route[] {
  const { heartbeatMs, openMs, messageMaxChars } = options;
  const readBody = createBodyReader(options.bodyLimit);
  const { chat, streams, renderer, quotas } = parts;
  const timing = { heartbeatMs, openMs };
  return [
    ...chatRoutes({ chat, renderer, readBody, quotas, messageMaxChars, timing }),
    ...streamRoutes({ streams, renderer, timing }),
    // Before the conversations, because /api/conversations/:id matches "export-all" too.
    ...exportRoutes(parts.exports, parts.conversations, parts.clock),
    ...conversationRoutes(parts.conversations),
    ...exportJobRoutes({
      jobs: parts.exportJobs,
      links: parts.links,
      cursors: parts.cursors,
      clock: parts.clock,
      readBody,
      heartbeatMs,
    }),
    ...keyRoutes({ keys: parts.keys, readBody }),
    ...healthRoutes(parts.health, options.version),
  ];
}

export function createApp(options: AppOptions, parts: AppParts): Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', false);
  app.set('case sensitive routing', true);
  app.set('strict routing', true);
  app.set('trust proxy', trustedProxies(options.trustProxy));

  app.use(requestLogger(parts.log, parts.context));
  app.use(securityHeaders());
  app.use(normalizeTarget());
  if (options.hosts) app.use(hostAllowlist(options.hosts));
  app.use(crossOrigin(options.corsOrigins));
  const routes = apiRoutes(options, parts);
  const guard = createGuard({ ...parts, required: options.required });
  mountRoutes(app, [...routes, ...documentRoutes(routes, options.version)], guard);
  mountAssets(app);
  app.use(notFound());
  app.use(errorHandler());
  return app;
}
