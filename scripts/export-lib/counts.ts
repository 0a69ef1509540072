/** What is found in a file, to be compared with its manifest. */
export interface Found {
  conversations: number;
  messages: number;
  deleted: number;
  first_message_id: string | null;
  last_message_id: string | null;
}

export function nothingFound(): Found {
  return { conversations: 0, messages: 0, deleted: 0, first_message_id: null, last_message_id: null };
}

export function addMessage(found: Found, id: string): void {
  found.messages += 1;
  found.first_message_id ??= id;
  found.last_message_id = id;
}

/** Reads a file a block at a time. Both methods throw an Error where the file is not what it should be. */
export interface Scanner {
  write(block: Buffer): void;
  end(): void;
}
