declare global {
  namespace Express {
    interface Locals {
      /** Set by the first middleware, for every request. */
      requestId: string;
      /** On the monotonic clock. */
      receivedAt: number;
      /** The template of the path; undefined where no route matches. */
      route?: string;
      details?: import('./response/request-details.ts').RequestDetails;
    }
  }
}

export {};
