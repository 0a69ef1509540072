/** Images in `data:` URLs. They are never decoded into pixels: only their size and first bytes are read. */
import { setImmediate as immediate } from 'node:timers/promises';
import type { ContentPart } from '../../domain/conversations/conversation.ts';
import { invalidMember } from '../../domain/errors.ts';
import { hashedPart } from '../../util/image-digest.ts';

export const IMAGE_PREFIX = /^data:image\/(png|jpeg|webp|gif);base64,/i;

/** Whether the first bytes, as Latin-1, are those of the type. */
const MAGIC: Readonly<Record<string, (start: string) => boolean>> = {
  png: (start) => start.startsWith('\x89PNG\r\n\x1a\n'),
  jpeg: (start) => start.startsWith('\xff\xd8\xff'),
  webp: (start) => start.startsWith('RIFF') && start.endsWith('WEBP'),
  gif: (start) => /^GIF8[79]a/.test(start),
};
const MAGIC_BYTES = 12;

/** The length of the data of an image URL in bytes; 0 for an `https:` URL. */
export function base64Bytes(url: string): number {
  if (!/^data:/i.test(url)) return 0;
  const chars = url.length - url.indexOf(',') - 1;
  const padding = url.endsWith('==') ? 2 : url.endsWith('=') ? 1 : 0;
  return Math.floor((chars * 3) / 4) - padding;
}

/** The length of so many bytes in base64. */
export function base64Chars(bytes: number): number {
  return 4 * Math.ceil(bytes / 3);
}

/**
 * Checks that every `data:` URL is base64 and begins as an image of its type, and hashes it. One image a tick of the
 * event loop.
 * @param where the member of the body
 * @throws AppError `validation`
 */
export async function checkImages(parts: readonly ContentPart[], where = 'message'): Promise<void> {
  for (const [index, part] of parts.entries()) {
    if (part.type !== 'image_url') continue;
    const message = imageProblem(part.image_url.url);
    if (message !== undefined) throw invalidMember(`${where}.${index}.image_url.url`, message);
    await immediate();
    hashedPart(part);
    await immediate();
  }
}

function imageProblem(url: string): string | undefined {
  const [prefix = '', type = ''] = IMAGE_PREFIX.exec(url) ?? [];
  if (prefix === '') return undefined;
  const data = url.slice(prefix.length);
  const bytes = Buffer.from(data, 'base64');
  // Node skips what is not base64, accepts the alphabet for URLs, and reads only the low byte of each character.
  if (bytes.toString('base64') !== data) return 'must be valid base64';
  const start = bytes.toString('latin1', 0, MAGIC_BYTES);
  const isTrue = MAGIC[type.toLowerCase()]?.(start);
  return isTrue ? undefined : `must be an image of the type that the URL names, image/${type.toLowerCase()}`;
}
