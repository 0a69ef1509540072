/** A failed delivery. The message may be logged: it contains no mail address and no URL. */
export class DeliveryError extends Error {
  /** Whether a retry cannot succeed. */
  readonly permanent: boolean;

  constructor(message: string, { permanent }: { readonly permanent: boolean } = { permanent: false }) {
    super(message);
    this.name = 'DeliveryError';
    this.permanent = permanent;
  }
}
