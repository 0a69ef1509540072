declare global {
  namespace Express {
    interface Locals {
      /** Set by the first middleware, for every request. */
      requestId: string;
      details?: import('./response/request-details.ts').RequestDetails;
    }
  }
}

export {};
