import type { Options } from 'mdast-util-from-markdown';

type Extension = Exclude<NonNullable<Options['extensions']>[number], unknown[]>;
type Construct = Exclude<NonNullable<Extension['flow']>[number], unknown[] | undefined>;
type TokenizeContext = ThisParameterType<Construct['tokenize']>;
type Effects = Parameters<Construct['tokenize']>[0];
type State = ReturnType<Construct['tokenize']>;
type Code = Parameters<State>[0];

const DOLLAR = 36;
const STAR = 42;
const BACKSLASH = 92;

/** Two words in a row outside braces and commands, or punctuation of a sentence in full width. */
const PROSE = /[A-Za-z]{2} [A-Za-z]{2}|[、。！，：；？]/;

function withoutBraces(content: string): string {
  let text = content.replaceAll(/\\(?:[A-Za-z]+|[^A-Za-z])/g, '\\');
  for (let before = ''; before !== text; ) {
    before = text;
    text = text.replaceAll(/\{[^{}]*\}/g, '{}');
  }
  return text.replace(/\{(?!\}).*/, '');
}

/** The length of a formula in dollar signs, or of several dollar signs, at the start of the text; 0 if there is none. */
function dollars(before: string, text: string): number {
  const display = /^(?:\$\$(?!\$)(?:\\.|\$(?!\$)|[^\\$])*\$\$|\${2,})/.exec(text);
  if (display) return display[0].length;
  const content = /^\$(?![ \t])((?:\\.|[^\\$])*)\$(?!\d)/.exec(text)?.[1];
  if (content === undefined || content === '' || /[ \t]$/.test(content)) return 0;
  if (/[A-Za-z\d]$/.test(before) && !content.startsWith('\\')) return 0;
  return PROSE.test(withoutBraces(content)) ? 0 : content.length + 2;
}

/** The length of a formula in escaped brackets at the start of the text; 0 if there is none. */
function brackets(text: string, isInLabel: boolean): number {
  const round = /^\\\((?:\\[^)]|[^\\])*\\\)/.exec(text);
  if (round) return round[0].length;
  const content = isInLabel ? undefined : /^\\\[((?:\\[^\]]|[^\\])*)\\\](?!\()/.exec(text)?.[1];
  return content === undefined || /^[\d,\s–-]*$/.test(content) ? 0 : content.length + 4;
}

/** A construct of inline text of the length that `measure` returns. */
function inlineText(
  measure: (context: TokenizeContext, before: string, rest: string) => number,
  source: string,
) {
  return {
    name: 'literal',
    tokenize(this: TokenizeContext, effects: Effects, ok: State, nok: State): State {
      const context = this;
      let end = 0;
      function inside(code: Code): State | undefined {
        if (context.now().offset >= end) {
          effects.exit('htmlTextData');
          effects.exit('htmlText');
          return ok(code);
        }
        if (code === null || code < -2) return nok(code);
        effects.consume(code);
        return inside;
      }
      return (code) => {
        const { offset } = context.now();
        const lineEnd = source.indexOf('\n', offset);
        const rest = source.slice(offset, lineEnd < 0 ? undefined : lineEnd);
        const length = measure(context, source.slice(Math.max(0, offset - 1), offset), rest);
        if (length === 0) return nok(code);
        end = offset + length;
        effects.enter('htmlText');
        effects.enter('htmlTextData');
        return inside(code);
      };
    },
  } satisfies Construct;
}

/** Whether the text is in the brackets of what may become a link or an image. */
function isInLabel({ events }: TokenizeContext): boolean {
  return events.some(
    ([kind, token]) =>
      kind === 'enter' && (token.type === 'labelLink' || token.type === 'labelImage') && !token._balanced,
  );
}

/** The line after a line ending, unless it is lazy. */
const nextLine: Construct = {
  partial: true,
  tokenize(effects, ok, nok) {
    const after: State = (code) => (this.parser.lazy[this.now().line] ? nok(code) : ok(code));
    return (code) => {
      if (code === null) return nok(code);
      effects.enter('lineEnding');
      effects.consume(code);
      effects.exit('lineEnding');
      return after;
    };
  },
};

const blank: Construct = {
  partial: true,
  tokenize(effects, ok, nok) {
    const inside: State = (code) => {
      if (code === null || code < -2) return ok(code);
      if (code !== 32 && code !== -1 && code !== -2) return nok(code);
      effects.enter('whitespace');
      effects.consume(code);
      effects.exit('whitespace');
      return inside;
    };
    return (code) => {
      if (code === null) return ok(code);
      effects.enter('lineEnding');
      effects.consume(code);
      effects.exit('lineEnding');
      return inside;
    };
  },
};

/** A display formula over several lines, as tokens of HTML. */
function displayFlow(source: string): Construct {
  return {
    name: 'mathFlow',
    concrete: true,
    resolveTo(events) {
      const index = events.findLastIndex(([kind, token]) => kind === 'enter' && token.type === 'htmlFlow');
      const prefix = events[index - 2]?.[1];
      if (prefix?.type === 'linePrefix') {
        for (const event of events.slice(index, index + 2)) event[1].start = prefix.start;
        events.splice(index - 2, 2);
      }
      return events;
    },
    tokenize(effects, ok, nok) {
      let mark = '';
      let line = '';
      let isFirst = true;
      const done: State = (code) => {
        effects.exit('htmlFlow');
        return ok(code);
      };
      const lineEnd: State = (code) => effects.check(blank, done, notBlank)(code);
      const notBlank: State = (code) => effects.check(nextLine, startLine, done)(code);
      function startLine(code: Code): State {
        effects.enter('lineEnding');
        effects.consume(code);
        effects.exit('lineEnding');
        line = '';
        isFirst = false;
        return (next) => {
          effects.enter('htmlFlowData');
          return inside(next);
        };
      }
      function inside(code: Code): State | undefined {
        if (code === null || code < -2) {
          effects.exit('htmlFlowData');
          return !isFirst && line.includes(mark) ? done(code) : lineEnd(code);
        }
        line += code > 0 ? String.fromCharCode(code) : ' ';
        effects.consume(code);
        return inside;
      }
      return (code) => {
        const { offset } = this.now();
        const end = source.indexOf('\n', offset);
        const text = source.slice(offset, end < 0 ? undefined : end);
        if (/^\$\$(?!\$)/.test(text) && !/^\$\$(?:\\.|[^\\$]|\$(?!\$))*\$\$/.test(text)) mark = '$$';
        else if (/^\\\[[^\]]*$/.test(text)) mark = '\\]';
        else return nok(code);
        effects.enter('htmlFlow');
        effects.enter('htmlFlowData');
        effects.consume(code);
        // Asked only whether it interrupts a paragraph.
        if (this.interrupt) return ok;
        line = mark;
        return inside;
      };
    },
  };
}

/** LaTeX formulas, which the text format leaves as they are, and stars between digits, as inline and block HTML. */
export function literals(source: string): Extension {
  const flow = displayFlow(source);
  const ofStars = (before: string, rest: string) =>
    /\d$/.test(before) ? (/^\*+(?=\d)/.exec(rest)?.[0].length ?? 0) : 0;
  return {
    flow: { [DOLLAR]: flow, [BACKSLASH]: flow },
    text: {
      [DOLLAR]: inlineText((_context, before, rest) => dollars(before, rest), source),
      [BACKSLASH]: inlineText((context, _before, rest) => brackets(rest, isInLabel(context)), source),
      [STAR]: inlineText((_context, before, rest) => ofStars(before, rest), source),
    },
  };
}
