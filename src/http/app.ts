import express, { type Express } from 'express';
import type { Logger } from 'pino';
import type { TextFormat } from '../domain/ports.ts';
import type { RequestContext } from '../request-context.ts';
import type { ChatService } from '../services/chat.ts';
import type { ConversationService } from '../services/conversations.ts';
import type { HealthService } from '../services/health.ts';
import { createBodyReader } from './body.ts';
import { answerErrors, notFound } from './middleware/errors.ts';
import { observe } from './middleware/observe.ts';
import { crossOrigin, securityHeaders } from './middleware/security.ts';
import { normalizeTarget } from './middleware/target.ts';
import { mountRoutes, type Route } from './route.ts';
import { chatRoutes } from './routes/chat.ts';
import { conversationRoutes } from './routes/conversations.ts';
import { documentRoutes, mountAssets } from './routes/documents.ts';
import { healthRoutes } from './routes/health.ts';

export interface AppOptions {
  readonly version: string;
  readonly bodyLimit: number;
  readonly messageMaxChars: number;
  readonly corsOrigins: '*' | 'loopback' | readonly string[];
  readonly trustProxy: number | readonly string[];
  readonly heartbeatMs: number;
  readonly openMs: number;
}

export interface AppParts {
  readonly chat: ChatService;
  readonly conversations: ConversationService;
  readonly health: HealthService;
  readonly text: TextFormat;
  readonly log: Logger;
  readonly context: RequestContext;
}

/** Will be the export of everything; until then it must not be mistaken for a conversation's id. */
const RESERVED = ['/api/conversations/export-all'];

function apiRoutes(options: AppOptions, parts: AppParts): Route[] {
  const { heartbeatMs, openMs, messageMaxChars } = options;
  const readBody = createBodyReader(options.bodyLimit);
  return [
    ...chatRoutes({
      chat: parts.chat,
      text: parts.text,
      readBody,
      messageMaxChars,
      stream: { heartbeatMs, openMs },
    }),
    ...conversationRoutes(parts.conversations),
    ...healthRoutes(parts.health, options.version),
  ];
}

/** The order in which a request meets what. */
export function createApp(options: AppOptions, parts: AppParts): Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', false);
  app.set('case sensitive routing', true);
  app.set('strict routing', true);
  const { trustProxy } = options;
  app.set('trust proxy', typeof trustProxy === 'number' ? trustProxy : [...trustProxy]);

  app.use(observe(parts.log, parts.context));
  app.use(securityHeaders());
  app.use(normalizeTarget());
  app.use(crossOrigin(options.corsOrigins));
  const routes = apiRoutes(options, parts);
  mountRoutes(app, [...routes, ...documentRoutes(routes, options.version)], RESERVED);
  mountAssets(app);
  app.use(notFound());
  app.use(answerErrors(parts.log));
  return app;
}
