/**
 * A deadline that each read moves. Moving it later is only an assignment, because the timer is set again when it fires
 * before the deadline, or when the deadline moves nearer. Uses the monotonic clock.
 */
export class IdleTimeout {
  #due: number;
  #armedFor = 0;
  #timer: NodeJS.Timeout | undefined;
  readonly #expired: () => void;

  constructor(ms: number, expired: () => void) {
    this.#expired = expired;
    this.#due = performance.now() + ms;
    this.#arm(ms);
  }

  /** Moves the deadline to `ms` from now. */
  set(ms: number): void {
    this.#due = performance.now() + ms;
    if (this.#due < this.#armedFor) this.#arm(ms);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#armedFor = 0;
  }

  #arm(ms: number): void {
    clearTimeout(this.#timer);
    this.#armedFor = performance.now() + ms;
    this.#timer = setTimeout(() => this.#check(), ms);
  }

  #check(): void {
    const left = this.#due - performance.now();
    // Timers may fire a fraction of a millisecond early.
    if (left < 1) this.#expired();
    else this.#arm(left);
  }
}
