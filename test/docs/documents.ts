/** Parses the documents into fenced blocks, tables and links. */
import { readdirSync, readFileSync } from 'node:fs';

const ROOT = new URL('../../', import.meta.url);

export interface Block {
  readonly language: string;
  readonly text: string;
  /** Line of the opening fence, counted from 1. */
  readonly line: number;
}

/** A curl command of a document, and the block after it, which shows the response. */
export interface Call {
  readonly command: Block;
  readonly response: Block | undefined;
}

export function fileUrl(name: string): URL {
  return new URL(name, ROOT);
}

export function read(name: string): string {
  return readFileSync(fileUrl(name), 'utf8').replaceAll('\r\n', '\n');
}

/** Paths relative to the project's folder. */
export function documents(): string[] {
  const inDocs = readdirSync(fileUrl('docs/')).filter((file) => file.endsWith('.md'));
  return ['README.md', 'README.zh-CN.md', ...inDocs.sort().map((file) => `docs/${file}`)];
}

export function blocksOf(markdown: string): Block[] {
  return [...markdown.matchAll(/^```([\w-]*)\n([\s\S]*?)^```$/gm)].map((match) => ({
    language: match[1] ?? '',
    text: match[2] ?? '',
    line: markdown.slice(0, match.index).split('\n').length,
  }));
}

export function callsOf(markdown: string): Call[] {
  const blocks = blocksOf(markdown);
  return blocks.flatMap((command, index) => {
    if (!/^(sh|bash)$/.test(command.language) || !/\bcurl\b/.test(command.text)) return [];
    const next = blocks[index + 1];
    return [{ command, response: next && /^(json|text)$/.test(next.language) ? next : undefined }];
  });
}

/** The cells of every table row in the sections whose heading matches. */
export function rowsUnder(markdown: string, heading: RegExp): string[][] {
  const sections = markdown
    .split(/^(?=#+ )/m)
    .filter((section) => heading.test(section.split('\n', 1)[0] ?? ''));
  return sections
    .flatMap((section) => section.split('\n'))
    .filter((line) => line.startsWith('|') && !/^\|[\s|:-]+$/.test(line))
    .map((line) =>
      line
        .slice(1, line.lastIndexOf('|'))
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim().replaceAll('\\|', '|')),
    );
}

/** The `text` of a cell that consists of `` `text` `` alone. */
export function codeIn(cell: string | undefined): string | undefined {
  return /^`([^`]+)`$/.exec(cell ?? '')?.[1];
}

/** Targets of the links within the project; `path` is empty for links within the document. */
export function linksOf(markdown: string): { readonly path: string; readonly fragment: string }[] {
  const targets = [...prose(markdown).matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1] ?? '');
  return targets
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [path = '', fragment = ''] = target.split('#');
      return { path, fragment };
    });
}

/** The document without its fenced blocks. */
export function prose(markdown: string): string {
  return markdown.replace(/^```[\s\S]*?^```$/gm, '');
}

/** The fragments that GitHub gives to the headings. */
export function anchorsOf(markdown: string): string[] {
  return [...prose(markdown).matchAll(/^#+ (.+)$/gm)].map((match) =>
    (match[1] ?? '')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-'),
  );
}
