import { type Run, Runs } from './runs.ts';

/** Final text. `alt` is its form in the description of an image. */
interface Text {
  readonly kind: 'text';
  text: string;
  readonly alt: string | null;
}

/** A `[` or `![`. */
interface Bracket {
  readonly kind: 'bracket';
  /** Position in the source. */
  readonly at: number;
  readonly image: boolean;
  readonly order: number;
  /** Index among all nodes of the block. */
  readonly place: number;
  /** Whether the bracket may still begin a link or an image. */
  live: boolean;
}

type Node = Text | Run | Bracket;

const COMPACT_FROM = 1024;

/**
 * Pairs the marks of one block as they arrive, and emits the text up to the first mark that may still be paired.
 * Each mark is visited a bounded number of times, so the cost is linear.
 */
export class Spans {
  readonly #sink: (text: string) => void;
  #nodes: Node[] = [];
  /** Index of the first node that has not been emitted. */
  #head = 0;
  /** Emitted nodes that were removed from the array. */
  #removed = 0;
  #orders = 0;
  readonly #runs = new Runs();
  /** First run that must wait until no bracket before it can begin a link, because a link ends all spans inside it. */
  #deferred: Run | null = null;
  readonly #brackets: Bracket[] = [];
  #liveLinks: Bracket[] = [];
  #liveImages = 0;

  constructor(sink: (text: string) => void) {
    this.#sink = sink;
  }

  /** Whether everything has been emitted. */
  get settled(): boolean {
    return this.#nodes.length === 0;
  }

  /** Position in the source of the first mark that may still be paired; -1 if everything has been emitted. */
  get heldFrom(): number {
    const node = this.#nodes[this.#head];
    return node && node.kind !== 'text' ? node.at : -1;
  }

  /** Whether a `]` may belong to a bracket. */
  get inBrackets(): boolean {
    return this.#brackets.length > 0;
  }

  /** Whether a `]` with an address after it would make a link or an image. */
  get canLink(): boolean {
    return this.#brackets.at(-1)?.live ?? false;
  }

  text(text: string, alt: string | null = null): void {
    if (this.#nodes.length === 0) {
      this.#sink(text);
      return;
    }
    const last = this.#nodes.at(-1);
    if (alt === null && last?.kind === 'text' && last.alt === null) last.text += text;
    else this.#nodes.push({ kind: 'text', text, alt });
  }

  run(at: number, mark: string, length: number, opens: boolean, closes: boolean): void {
    if (!opens && !closes) {
      this.text(mark.repeat(length));
      return;
    }
    const run = this.#runs.add(at, this.#orders++, mark, length, opens, closes);
    this.#nodes.push(run);
    if (this.#isDeferring()) {
      this.#deferred ??= run;
      return;
    }
    this.#runs.pairFrom(run);
    this.#settle();
  }

  open(at: number, image: boolean): void {
    const place = this.#removed + this.#nodes.length;
    const order = this.#orders++;
    const bracket: Bracket = { kind: 'bracket', at, image, order, place, live: true };
    this.#nodes.push(bracket);
    this.#brackets.push(bracket);
    if (image) this.#liveImages++;
    else this.#liveLinks.push(bracket);
  }

  /** Closes the innermost bracket without a link; both brackets are text. */
  close(): void {
    this.#pop();
    this.text(']');
    this.#resume();
  }

  /** Closes the innermost bracket as a link to this address, or as an image. */
  link(address: string): void {
    const bracket = this.#pop();
    if (!bracket) return;
    if (this.#deferred && this.#deferred.order > bracket.order) this.#deferred = null;
    this.#runs.pairAfter(bracket.order);
    const at = bracket.place - this.#removed;
    const inside = this.#nodes.slice(at + 1);
    this.#nodes.length = at;
    const alt = join(inside, altOf);
    const text = bracket.image ? alt : withAddress(join(inside, textOf), address);
    this.#nodes.push({ kind: 'text', text, alt });
    if (!bracket.image) {
      for (const outer of this.#liveLinks) outer.live = false;
      this.#liveLinks = [];
    }
    this.#resume();
  }

  /** Ends the block; open marks are text. */
  end(): void {
    for (const bracket of this.#brackets) bracket.live = false;
    this.#liveLinks = [];
    this.#liveImages = 0;
    this.#resume();
    this.#runs.end();
    this.#settle();
  }

  #isDeferring(): boolean {
    return this.#liveImages > 0 || this.#liveLinks.length > 0;
  }

  #pop(): Bracket | undefined {
    const bracket = this.#brackets.pop();
    if (!bracket?.live) return bracket;
    bracket.live = false;
    if (bracket.image) this.#liveImages--;
    else this.#liveLinks.pop();
    return bracket;
  }

  #resume(): void {
    if (this.#isDeferring()) return;
    this.#runs.pairFrom(this.#deferred);
    this.#deferred = null;
    this.#settle();
  }

  /** Emits the nodes that are final. */
  #settle(): void {
    const nodes = this.#nodes;
    while (this.#head < nodes.length) {
      const node = nodes[this.#head];
      if (!node || (node.kind !== 'text' && node.live)) break;
      this.#head++;
      const text = textOf(node);
      if (text !== '') this.#sink(text);
    }
    if (this.#head === nodes.length || (this.#head > COMPACT_FROM && this.#head * 2 > nodes.length)) {
      this.#removed += this.#head;
      this.#nodes = nodes.slice(this.#head);
      this.#head = 0;
    }
  }
}

function textOf(node: Node): string {
  if (node.kind === 'text') return node.text;
  if (node.kind === 'run') return node.mark.repeat(node.left);
  return node.image ? '![' : '[';
}

function altOf(node: Node): string {
  return node.kind === 'text' ? (node.alt ?? node.text) : textOf(node);
}

function join(nodes: readonly Node[], form: (node: Node) => string): string {
  let text = '';
  for (const node of nodes) text += form(node);
  return text;
}

function withAddress(text: string, address: string): string {
  if (address === '' || text === address) return text;
  return text === '' ? address : `${text} (${address})`;
}
