import { hash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import type { ModelReply, ModelRequest } from '../domain/chat/model.ts';
import type { CacheHit, ResponseCache } from '../domain/chat/response-cache.ts';

/** Bytes of an entry without its text: key, object, list links. Rounded up from a heap snapshot. */
const ENTRY_OVERHEAD = 512;

/** In bytes: V8 stores a UTF-16 unit in at most two. */
function sizeOf(reply: ModelReply): number {
  return reply.content.length * 2 + ENTRY_OVERHEAD;
}

/**
 * @param maxBytes of all entries; 0 disables the cache
 * @param ttlMs 0 disables the cache
 */
export function createResponseCache(maxBytes: number, ttlMs: number): ResponseCache {
  const enabled = maxBytes > 0 && ttlMs > 0;
  const entries = enabled
    ? new LRUCache<string, ModelReply>({ maxSize: maxBytes, ttl: ttlMs, sizeCalculation: sizeOf })
    : undefined;

  return {
    enabled,
    keyOf(request: ModelRequest, owner: string | null): string {
      const { model, messages, temperature, maxTokens } = request;
      const context = messages.map(({ role, content }) => [role, content]);
      const parts = [owner, model, temperature ?? null, maxTokens ?? null, context];
      return hash('sha256', JSON.stringify(parts), 'base64url');
    },
    get(key: string): CacheHit | undefined {
      const reply = entries?.get(key);
      return reply && { reply, ttlMs: entries?.getRemainingTTL(key) ?? 0 };
    },
    set(key: string, reply: ModelReply): void {
      entries?.set(key, reply);
    },
  };
}
