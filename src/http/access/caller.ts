import type { Response } from 'express';
import { type Access, UNRESTRICTED } from '../../domain/access/access.ts';
import type { ApiKey } from '../../domain/access/api-keys.ts';

/** The sender of a request. */
export interface Caller {
  readonly access: Access;
  /** Null without authentication, or with a signed link. */
  readonly key: ApiKey | null;
  /** The subject that rate limits count. */
  readonly subject: string;
}

/** Where authentication is off, or a signed link grants the access. */
export function anonymousCaller(subject: string): Caller {
  return { access: UNRESTRICTED, key: null, subject };
}

/** A caller without a key where one is required. Only open routes accept it. */
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

/** The sender of this response's request. The guard sets it before the route runs. */
export function callerOf({ locals }: Response): Caller {
  return locals.caller;
}
