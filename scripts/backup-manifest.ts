import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { CommandError } from './command.ts';

export const MANIFEST = 'manifest.json';

/** The list of a backup's files. It is written last, so a folder without it is no complete backup. */
const manifestSchema = z.object({
  program: z.literal('chat-api-server'),
  version: z.string(),
  created_at: z.iso.datetime(),
  files: z
    .array(
      z.object({
        name: z.enum(['chat.sqlite', 'journal.sqlite']),
        bytes: z.int().nonnegative(),
        sha256: z.hash('sha256'),
        rows: z.record(z.string(), z.int().nonnegative()),
      }),
    )
    .min(1),
});

export type Manifest = z.output<typeof manifestSchema>;

/** @throws CommandError when the folder is no complete backup */
export function readManifest(folder: string): Manifest {
  try {
    return manifestSchema.parse(JSON.parse(readFileSync(join(folder, MANIFEST), 'utf8')));
  } catch {
    throw new CommandError(
      `${folder} is not a complete backup: its ${MANIFEST} is missing or cannot be read. Nothing was restored`,
    );
  }
}
