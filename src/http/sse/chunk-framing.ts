import type { ServerResponse } from 'node:http';

/** How a text is written to a response whose chunks Node does not frame. */
export interface ChunkFraming {
  frame(text: string): string;
  /** Ends the body. */
  readonly end: string;
}

const UNFRAMED: ChunkFraming = { frame: (text) => text, end: '' };
const CHUNKED: ChunkFraming = {
  frame: (text) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`,
  end: '0\r\n\r\n',
};

/**
 * Takes over the chunked coding of a response, by Node's undocumented `chunkedEncoding`. Node writes each chunk in
 * three parts and joins them again, which dominates the cost of many small events. HTTP/1.0 has no chunks.
 * Call it after `writeHead`, which decides about the coding.
 */
export function takeOverChunking(response: ServerResponse): ChunkFraming {
  if (!response.chunkedEncoding) return UNFRAMED;
  response.chunkedEncoding = false;
  return CHUNKED;
}
