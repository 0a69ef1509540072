import { pipeline } from 'node:stream/promises';
import type { Route } from '../route.ts';

type Format = 'prometheus' | 'openmetrics';

/** Resolves to the text of a scrape, in pieces, and its media type. */
export type ScrapeMetrics = (
  format: Format,
) => Promise<{ readonly type: string; readonly pieces: readonly string[] }>;

export function metricsRoute(scrape: ScrapeMetrics): Route {
  return {
    method: 'get',
    path: '/metrics',
    access: 'metrics',
    operation: {
      summary: 'Metrics for Prometheus',
      description:
        'Of all workers of this host, each with the label `worker`. The text format of Prometheus, or OpenMetrics by ' +
        '`Accept`. Open while the server listens on the loopback without authentication.',
      tags: ['health'],
      responses: {
        200: {
          description: 'The metrics',
          content: {
            'text/plain': { schema: { type: 'string' } },
            'application/openmetrics-text': { schema: { type: 'string' } },
          },
        },
      },
    },
    async handle(request, response) {
      const { type, pieces } = await scrape(formatOf(request.headers.accept ?? ''));
      response.setHeader('Content-Type', type);
      response.setHeader('Cache-Control', 'no-store');
      response.setHeader('Vary', 'Accept');
      const length = pieces.reduce((sum, piece) => sum + Buffer.byteLength(piece), 0);
      response.setHeader('Content-Length', length);
      await pipeline(pieces, response).catch(() => {
        // The client has left.
      });
    },
  };
}

/** By quality alone: versions and other parameters of the media types do not change what is sent. */
function formatOf(accept: string): Format {
  const openMetrics = quality(accept, 'application/openmetrics-text');
  return openMetrics > 0 && openMetrics >= quality(accept, 'text/plain') ? 'openmetrics' : 'prometheus';
}

function quality(accept: string, type: string): number {
  const ranges = accept.toLowerCase().split(',');
  const named = ranges.filter((range) => range.trim().startsWith(type));
  return Math.max(0, ...named.map((range) => Number(/;\s*q=([\d.]+)/.exec(range)?.[1] ?? 1)));
}
