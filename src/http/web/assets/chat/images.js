import { ChatError } from './problem.js';

/** What the API takes, see docs/api.md, by the first byte. Other and larger images are converted here. */
const TYPES = { 137: 'image/png', 255: 'image/jpeg', 82: 'image/webp', 71: 'image/gif' };
const MAX_BYTES = 4 * 1024 * 1024;
const MAX_SIDE_PX = 2048;
const QUALITY = 0.85;
export const MAX_IMAGES = 4;

/** @returns the URL `data:` of an image file; @throws ChatError `imageUnreadable` */
export async function imageData(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const [first] = new Uint8Array(await file.slice(0, 1).arrayBuffer());
    const type = TYPES[first];
    // The name of a file can lie about its type.
    const fits = type && file.size <= MAX_BYTES;
    return await dataUrl(fits ? new Blob([file], { type }) : await smaller(bitmap));
  } catch {
    throw new ChatError('imageUnreadable');
  }
}

function smaller(bitmap) {
  const scale = Math.min(1, MAX_SIDE_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale));
  canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: 'image/jpeg', quality: QUALITY });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener('load', () => resolve(reader.result));
    reader.addEventListener('error', () => reject(reader.error));
    reader.readAsDataURL(blob);
  });
}

/** The policy of the page shows `blob:` images only. undefined: an image of another server, which is not loaded. */
export function showableUrl(url) {
  const [, type, base64] = /^data:(image\/[a-z]+);base64,(.*)$/s.exec(url) ?? [];
  if (!Object.values(TYPES).includes(type)) return undefined;
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type }));
}
