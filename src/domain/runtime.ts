import type { Instant } from './conversations/conversation.ts';

export interface Clock {
  /** Wall clock, epoch milliseconds. */
  now(): Instant;
}

export interface IdSource {
  /** A new lower-case UUIDv7. */
  next(): string;
}

/** Implemented by pino. Lines never contain bodies, keys or prompts. */
export interface Log {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}
