declare global {
  namespace Express {
    interface Locals {
      /** Set by the first middleware, for every request. */
      requestId: string;
    }
  }
}

export {};
