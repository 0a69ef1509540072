import type { Response } from 'express';
import { type Access, UNRESTRICTED } from '../../domain/access.ts';
import type { ApiKey } from '../../domain/api-keys.ts';

/** Who sent a request, as far as it is known. */
export interface Caller {
  readonly access: Access;
  /** Null: a stranger, a server that asks for no keys, or somebody with a signed link. */
  readonly key: ApiKey | null;
  /** Whom the limits count it as. */
  readonly subject: string;
}

/** Of a server that asks for no keys. @param subject whom the limits count it as */
export function anonymousCaller(subject: string): Caller {
  return { access: UNRESTRICTED, key: null, subject };
}

/** Somebody without a key, where one is asked for: what is open to all is open to them. */
export function unauthenticatedCaller(subject: string): Caller {
  return { access: { owner: null, unrestricted: false }, key: null, subject };
}

export function keyCaller(key: ApiKey): Caller {
  return {
    access: { owner: key.owner, unrestricted: key.scopes.includes('admin') },
    key,
    subject: `key ${key.id}`,
  };
}

/** Who sent the request of this response. The guard has said so before any route is asked. */
export function callerOf({ locals }: Response): Caller {
  return locals.caller;
}
