/** A run of emphasis or strikethrough marks. */
export interface Run {
  readonly kind: 'run';
  /** Position in the source. */
  readonly at: number;
  readonly mark: string;
  readonly opens: boolean;
  readonly closes: boolean;
  /** Position among the runs and brackets of the block. */
  readonly order: number;
  /** Marks that no span has used. */
  left: number;
  /** Whether the run may still be paired. */
  live: boolean;
  previous: Run | null;
  next: Run | null;
}

/** For each kind of closing run, the order up to which no opener fits. Keeps the cost linear (CommonMark's `openers_bottom`). */
type Floors = Map<string, number>;

/** The live runs of a block in order, and the rules by which they pair. */
export class Runs {
  #last: Run | null = null;
  readonly #floors: Floors = new Map();

  add(at: number, order: number, mark: string, length: number, opens: boolean, closes: boolean): Run {
    const previous = this.#last;
    const run: Run = {
      kind: 'run',
      at,
      mark,
      opens,
      closes,
      order,
      left: length,
      live: true,
      previous,
      next: null,
    };
    if (previous) previous.next = run;
    this.#last = run;
    return run;
  }

  /** Pairs the closing runs from `first` on with earlier opening runs. */
  pairFrom(first: Run | null): void {
    this.#pairAll(first, -1, this.#floors);
  }

  /** Pairs the runs after `order` among themselves; unpaired runs become text. */
  pairAfter(order: number): void {
    let first: Run | null = null;
    for (let run = this.#last; run && run.order > order; run = run.previous) first = run;
    this.#pairAll(first, order, new Map());
    while (this.#last && this.#last.order > order) this.#unlink(this.#last);
  }

  /** Turns all unpaired runs into text. */
  end(): void {
    for (let run = this.#last; run; run = run.previous) run.live = false;
    this.#last = null;
  }

  #pairAll(first: Run | null, bottom: number, floors: Floors): void {
    let run = first;
    while (run) {
      const next: Run | null = run.next;
      this.#pair(run, bottom, floors);
      run = next;
    }
  }

  #pair(closer: Run, bottom: number, floors: Floors): void {
    while (closer.closes && closer.left > 0) {
      const key = `${closer.mark}${closer.opens}${closer.left % 3}`;
      const opener = openerFor(closer, Math.max(bottom, floors.get(key) ?? -1));
      if (!opener) {
        floors.set(key, closer.order - 1);
        break;
      }
      while (closer.previous && closer.previous !== opener) this.#unlink(closer.previous);
      const used = opener.left > 1 && closer.left > 1 ? 2 : 1;
      opener.left -= used;
      closer.left -= used;
      if (opener.left === 0) this.#unlink(opener);
      else lowerFloors(floors, opener.order - 1);
    }
    if (closer.left === 0 || !closer.opens) this.#unlink(closer);
  }

  #unlink(run: Run): void {
    run.live = false;
    if (run.previous) run.previous.next = run.next;
    if (run.next) run.next.previous = run.previous;
    else this.#last = run.previous;
  }
}

function openerFor(closer: Run, floor: number): Run | null {
  for (let run = closer.previous; run && run.order > floor; run = run.previous) {
    if (run.mark === closer.mark && run.opens && fits(run, closer)) return run;
  }
  return null;
}

/** CommonMark's rule of three: runs that can both open and close do not pair if their sum is a multiple of three. */
function fits(opener: Run, closer: Run): boolean {
  if (closer.mark === '~') return true;
  if (!opener.closes && !closer.opens) return true;
  return closer.left % 3 === 0 || (opener.left + closer.left) % 3 !== 0;
}

/** An opener with fewer marks may fit closers that it did not fit before. */
function lowerFloors(floors: Floors, to: number): void {
  for (const [key, floor] of floors) {
    if (floor > to) floors.set(key, to);
  }
}
