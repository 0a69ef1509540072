import { randomFillSync } from 'node:crypto';
import { v7 } from 'uuid';
import type { IdSource } from './domain/runtime.ts';

const ID_BYTES = 16;
const IDS_PER_FILL = 256;

/** UUIDv7. Random bytes are fetched for many ids together: fetching them costs more than the rest of an id. */
export function createIdSource(): IdSource {
  const pool = Buffer.alloc(ID_BYTES * IDS_PER_FILL);
  let at = pool.length;
  return {
    next() {
      if (at === pool.length) {
        randomFillSync(pool);
        at = 0;
      }
      at += ID_BYTES;
      return v7({ random: pool.subarray(at - ID_BYTES, at) });
    },
  };
}
