/** Takes the marks out of Markdown while it arrives. */
export interface TextStream {
  /** Feeds a piece and returns what cannot change any more. */
  push(markdown: string): string;
  /** The rest. */
  end(): string;
}

export interface TextFormat {
  stream(): TextStream;
  whole(markdown: string): string;
}
