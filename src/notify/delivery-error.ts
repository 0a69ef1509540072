/** Why somebody could not be told, in words that may be logged: no address of a person, no URL. */
export class DeliveryError extends Error {
  /** Whether another try would end the same. */
  readonly permanent: boolean;

  constructor(message: string, permanent = false) {
    super(message);
    this.name = 'DeliveryError';
    this.permanent = permanent;
  }
}
