import { hash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import type { ModelReply, ModelRequest } from '../domain/chat/model.ts';
import type { ModelParameters } from '../domain/chat/parameters.ts';
import type { CacheHit, ResponseCache } from '../domain/chat/response-cache.ts';
import { hashedPart } from '../util/image-digest.ts';

/** Bytes of an entry without its text: key, object, list links. Rounded up from a heap snapshot. */
const ENTRY_OVERHEAD = 512;

/** In bytes: V8 stores a UTF-16 unit in at most two. */
function sizeOf(reply: ModelReply): number {
  const { content, reasoning = '', toolCalls = [] } = reply;
  let chars = content.length + reasoning.length;
  for (const { function: called } of toolCalls) chars += called.arguments.length;
  return chars * 2 + ENTRY_OVERHEAD;
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
      const { model, messages, parameters, user } = request;
      const context = messages.map(({ role, content, parts, toolCalls, toolCallId, reasoning, wire }) => {
        if (wire) return wire;
        const more = parts?.map(hashedPart) ?? toolCalls ?? toolCallId;
        return more === undefined ? [role, content] : [role, content, more, reasoning];
      });
      const key = [owner, model, sorted(parameters), user, context];
      return hash('sha256', JSON.stringify(key), 'base64url');
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

/** Settings, conversation and turn name parameters in any order. */
function sorted({ extra = {}, ...others }: ModelParameters): object {
  return [Object.entries(others).sort(byName), Object.entries(extra).sort(byName)];
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}
