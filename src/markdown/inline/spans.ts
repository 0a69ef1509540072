import { type Run, Runs } from './runs.ts';

/** Text whose form is known. `alt` is its form in the description of an image. */
interface Text {
  readonly kind: 'text';
  text: string;
  readonly alt: string | null;
}

/** A `[` or `![`. */
interface Bracket {
  readonly kind: 'bracket';
  readonly image: boolean;
  readonly order: number;
  /** Its place among the nodes, counted from the first node of the block. */
  readonly place: number;
  /** Whether it may still begin a link or an image. */
  live: boolean;
}

type Node = Text | Run | Bracket;

const COMPACT_FROM = 1024;

/**
 * Pairs the marks of one block while they arrive, and hands on the text up to the first mark that may still be
 * paired. Each mark is looked at a bounded number of times, so the cost is linear.
 */
export class Spans {
  readonly #sink: (text: string) => void;
  #nodes: Node[] = [];
  /** Nodes handed on already: those before `#head`, and `#gone` of them not in the array any more. */
  #head = 0;
  #gone = 0;
  #orders = 0;
  readonly #runs = new Runs();
  /** Runs from here on wait until no bracket before them can begin a link (a link ends all spans inside it). */
  #waiting: Run | null = null;
  readonly #brackets: Bracket[] = [];
  #liveLinks: Bracket[] = [];
  #liveImages = 0;

  constructor(sink: (text: string) => void) {
    this.#sink = sink;
  }

  /** Whether everything has been handed on. */
  get settled(): boolean {
    return this.#nodes.length === 0;
  }

  /** Whether a `]` may belong to a bracket. */
  get inBrackets(): boolean {
    return this.#brackets.length > 0;
  }

  /** Whether a `]` would end the text of a link or an image, if an address follows. */
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

  run(mark: string, length: number, opens: boolean, closes: boolean): void {
    if (!opens && !closes) {
      this.text(mark.repeat(length));
      return;
    }
    const run = this.#runs.add(this.#orders++, mark, length, opens, closes);
    this.#nodes.push(run);
    if (this.#isDeferring()) {
      this.#waiting ??= run;
      return;
    }
    this.#runs.pairFrom(run);
    this.#settle();
  }

  open(image: boolean): void {
    const place = this.#gone + this.#nodes.length;
    const order = this.#orders++;
    const bracket: Bracket = { kind: 'bracket', image, order, place, live: true };
    this.#nodes.push(bracket);
    this.#brackets.push(bracket);
    if (image) this.#liveImages++;
    else this.#liveLinks.push(bracket);
  }

  /** The innermost bracket begins no link: it is text, and so is the `]` that ends it. */
  close(): void {
    this.#pop();
    this.text(']');
    this.#resume();
  }

  /** The innermost bracket begins a link to this address, or an image. */
  link(address: string): void {
    const bracket = this.#pop();
    if (!bracket) return;
    if (this.#waiting && this.#waiting.order > bracket.order) this.#waiting = null;
    this.#runs.pairAfter(bracket.order);
    const at = bracket.place - this.#gone;
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

  /** The block is over: what is still open is text. */
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
    this.#runs.pairFrom(this.#waiting);
    this.#waiting = null;
    this.#settle();
  }

  /** Hands on what cannot change any more. */
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
      this.#gone += this.#head;
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
