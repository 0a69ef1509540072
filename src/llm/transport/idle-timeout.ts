/**
 * A deadline that moves often and is rarely met: moving it is an assignment, the timer is armed anew only when it
 * fires early or the deadline comes nearer. Monotonic, so a jump of the wall clock changes nothing.
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

  /** The deadline is `ms` from now, sooner or later than before. */
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
