/** The content of a message: text, or parts with images. */
import { z } from 'zod';
import type { ContentPart } from '../../domain/conversations/conversation.ts';
import { base64Bytes, IMAGE_PREFIX } from '../request/images.ts';
import { cleanText, strictObject } from './common.ts';

export interface MessageLimits {
  /** Of the text of a message, in UTF-16 units. */
  readonly messageMaxChars: number;
  /** Of one image in a `data:` URL, in bytes. */
  readonly imageMaxBytes: number;
  /** Of all images of a request. */
  readonly imagesMaxBytes: number;
}

const MAX_PARTS = 16;
const MAX_URL_CHARS = 8192;
const TYPES = 'image/png, image/jpeg, image/webp or image/gif';
const URL_RULE = `must be an https: URL, or data:…;base64, with ${TYPES}`;

/** Whether the bytes are base64, and an image of that type, is checked later: see `checkImages`. */
function urlProblem(url: string, { imageMaxBytes }: MessageLimits): string | undefined {
  if (/^data:/i.test(url)) {
    if (!IMAGE_PREFIX.test(url)) return URL_RULE;
    return base64Bytes(url) > imageMaxBytes
      ? `must be an image of at most ${imageMaxBytes} bytes`
      : undefined;
  }
  if (url.length > MAX_URL_CHARS) return `must be at most ${MAX_URL_CHARS} characters long`;
  return /^https:\/\/[^\s\p{C}]+$/iu.test(url) && URL.canParse(url) ? undefined : URL_RULE;
}

export function imageUrl(limits: MessageLimits) {
  return z
    .string('must be text')
    .superRefine((url, context) => {
      const message = urlProblem(url, limits);
      if (message !== undefined) context.addIssue({ code: 'custom', message });
    })
    .meta({
      description: `An \`https:\` URL, which the model server fetches, or a \`data:\` URL of ${TYPES}`,
    });
}

function contentPart(limits: MessageLimits) {
  const text = cleanText(z.string('must be text').min(1, 'must not be empty'));
  const image = strictObject({ url: imageUrl(limits), detail: z.enum(['auto', 'low', 'high']).optional() });
  return z.discriminatedUnion(
    'type',
    [
      strictObject({ type: z.literal('text'), text }),
      strictObject({ type: z.literal('image_url'), image_url: image }),
    ],
    { error: 'must be a part with the type text or image_url' },
  );
}

/** The text of the parts, one line each at least. */
export function textOfParts(
  parts: readonly { readonly type: string; readonly text?: string | undefined }[],
): string {
  return parts.flatMap(({ text }) => text ?? []).join('\n');
}

/** Without members that are undefined. */
export function contentParts(parts: readonly SentPart[]): ContentPart[] {
  return parts.map((part) => {
    if (part.type === 'text') return part;
    const { url, detail } = part.image_url;
    return { type: 'image_url', image_url: { url, ...(detail !== undefined && { detail }) } };
  });
}

type SentPart = z.output<ReturnType<typeof contentPart>>;

function isBlank(parts: readonly SentPart[]): boolean {
  return parts.every((part) => part.type === 'text' && part.text.trim() === '');
}

export function messageContent(limits: MessageLimits) {
  const { messageMaxChars, imagesMaxBytes } = limits;
  const tooLong = `must be at most ${messageMaxChars} characters long`;
  const text = cleanText(z.string().max(messageMaxChars, tooLong)).refine(
    (value) => value.trim() !== '',
    'must not be blank',
  );
  const parts = z
    .array(contentPart(limits))
    .min(1, 'must not be empty')
    .max(MAX_PARTS, `must have at most ${MAX_PARTS} parts`)
    .refine((value) => textOfParts(value).length <= messageMaxChars, tooLong)
    .refine((value) => value.length === 0 || !isBlank(value), 'must not be blank')
    .refine(
      (value) => imageBytes(value) <= imagesMaxBytes,
      `must have images of at most ${imagesMaxBytes} bytes together`,
    );
  return z.union([text, parts], { error: 'must be text or an array of content parts' }).meta({
    description:
      'Text, which is used unchanged, not trimmed; or content parts in the form of OpenAI, with images',
    example: '你好',
  });
}

function imageBytes(parts: readonly SentPart[]): number {
  return parts.reduce((sum, part) => sum + (part.type === 'text' ? 0 : base64Bytes(part.image_url.url)), 0);
}
