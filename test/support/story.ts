/**
 * Questions that contain the length, the speed and the fault of their reply. The text of the reply is computed from the
 * question, so that a test and the model server know it without a shared list.
 */
import { createHash } from 'node:crypto';
import {
  delta,
  done,
  finish,
  type Handler,
  reply,
  reset,
  role,
  type Step,
  script,
  silence,
  usage,
  wait,
} from './fake-upstream.ts';
import { SECRET_WORD } from './planted.ts';
import { randomFrom } from './random.ts';

export interface Plot {
  /** How many pieces the model sends. */
  readonly pieces: number;
  /** Milliseconds between two pieces. */
  readonly pace: number;
  /** What the model does after this many pieces, in place of further ones. */
  readonly fault?: { readonly kind: 'reset' | 'silence' | 'end' | 'status'; readonly after: number };
}

const WORDS = [
  'Nothing|is|lost|**bold**|*schräg*|`snake_case`|您好|世界|**注意：**请先保存|😀|𠮷野家|👨‍👩‍👧|naïve|2 ** 3',
  '[link](https://x.example/a_b)|ends.\n\n|- item\n|# Title\n\n|\n> quoted\n\n|~~gone~~',
]
  .join('|')
  .split('|');

let count = 0;

/** A new question. */
export function question(plot: Plot): string {
  const { pieces, pace, fault } = plot;
  const nonce = createHash('sha256')
    .update(`${process.pid} ${performance.timeOrigin} ${count++}`)
    .digest('hex');
  const told = fault ? ` fault=${fault.kind}:${fault.after}` : '';
  return `${SECRET_WORD} ${nonce.slice(0, 16)} pieces=${pieces} pace=${pace}${told}`;
}

export function plotOf(asked: string): Plot {
  const [, pieces, pace, kind, after] =
    /pieces=(\d+) pace=(\d+)(?: fault=(reset|silence|end|status):(\d+))?$/.exec(asked) ?? [];
  const plot = { pieces: Number(pieces ?? 3), pace: Number(pace ?? 0) };
  if (kind !== 'reset' && kind !== 'silence' && kind !== 'end' && kind !== 'status') return plot;
  return { ...plot, fault: { kind, after: Number(after) } };
}

/** The pieces of the whole reply to a question. */
export function piecesOf(asked: string): string[] {
  const digest = createHash('sha256').update(asked).digest();
  const random = randomFrom(digest.readUInt32BE(0));
  return Array.from({ length: plotOf(asked).pieces }, (_, index) => {
    const words = Array.from({ length: random.int(1, 3) }, () => random.pick(WORDS));
    return `${index === 0 ? `${SECRET_WORD} ` : ''}${words.join(' ')} `;
  });
}

export function replyTo(asked: string): string {
  return piecesOf(asked).join('');
}

/** Responds to every question with the reply that it describes. */
export const storyteller: Handler = async (exchange) => {
  const { messages, stream } = exchange.request.body;
  const asked = messages.findLast(({ role: who }) => who === 'user')?.content ?? '';
  const { pieces, pace, fault } = plotOf(asked);
  if (fault?.kind === 'status') {
    exchange.response
      .writeHead(400, { 'content-type': 'application/json' })
      .end('{"error":{"message":"no"}}');
    return;
  }
  if (!stream) {
    await wait(pieces * pace)(exchange);
    if (!exchange.response.destroyed) await reply(replyTo(asked))(exchange);
    return;
  }
  const all = piecesOf(asked).map(
    (text): Step =>
      async (here) => {
        if (pace > 0) await wait(pace)(here);
        if (!here.response.destroyed) await delta(text)(here);
      },
  );
  const said = fault ? all.slice(0, fault.after) : all;
  await script(role(), ...said, ...endOf(fault))(exchange);
};

function endOf(fault: Plot['fault']): Step[] {
  switch (fault?.kind) {
    case 'reset':
      return [wait(5), reset()];
    case 'silence':
      return [silence()];
    case 'end':
      return [];
    default:
      return [finish(), usage(), done()];
  }
}
