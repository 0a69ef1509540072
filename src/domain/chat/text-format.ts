/** Converts Markdown to plain text while it arrives. */
export interface TextStream {
  /** Returns the text that later pieces cannot change. */
  push(markdown: string): string;
  /** Returns the rest. */
  end(): string;
}

export interface TextFormat {
  stream(): TextStream;
  whole(markdown: string): string;
}
