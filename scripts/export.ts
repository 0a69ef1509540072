/** Exports from the database without the server: `npm run export -- --format csv --out FILE`. */
import { loadConfig } from '../src/config/config.ts';
import { loadEnvironment } from '../src/config/environment.ts';
import { openDatabase } from '../src/db/database.ts';
import { Retention } from '../src/domain/conversations/retention.ts';
import { errorCode } from '../src/domain/errors.ts';
import { maskInSteps } from '../src/filter/index.ts';
import { createLogger } from '../src/logger.ts';
import { CursorCodec } from '../src/services/exports/cursor-codec.ts';
import { ExportService } from '../src/services/exports/exports.ts';
import { readArguments } from '../src/util/command-line.ts';
import { CommandError, runCommand } from './command.ts';
import { createProgress } from './export-lib/progress.ts';
import { OPTIONS, readRequest } from './export-lib/request.ts';
import { exportToFile } from './export-lib/to-file.ts';
import { exportToStream } from './export-lib/to-stream.ts';

const USAGE = `usage: npm run export -- [options]
  --format json|csv|ndjson       default: json
  --start, --end DATE            first and last created_at of a conversation: 2026-03-21, or an instant with zone
  --role user|assistant|tool|system
  --status complete|streaming|incomplete|cancelled|superseded
  --rating up|down               only replies with this rating, and their questions
  --csv raw                      CSV without a byte order mark and formula escaping
  --summary                      NDJSON with a last line that holds the counts
  --compression none|gzip|zstd   default: none
  --since CURSOR                 only changes since the export whose manifest has this cursor
  --out FILE                     default: standard output (-)
  --restart                      discards what an interrupted run has written, and starts from the beginning
To resume an interrupted run, repeat its command line. FILE.manifest.json is written next to FILE.`;

const { values } = readArguments(USAGE, { options: OPTIONS });

async function main(): Promise<void> {
  const config = loadConfig(loadEnvironment(), process.stdout.isTTY);
  const log = createLogger({ ...config.log, level: 'silent' }, () => ({}));
  const database = openDatabase(config.database, log);
  const stop = new AbortController();
  const quit = () => stop.abort(new Stopped());
  // A second signal ends the process immediately.
  process.once('SIGINT', quit).once('SIGTERM', quit);
  const progress = createProgress(process.stderr);
  try {
    await database.conversations.check();
    const { linkSecrets } = config;
    const cursors = new CursorCodec(async () => linkSecrets ?? [await database.secrets.get('link')]);
    const clock = { now: () => Date.now() };
    const personal = { mask: (text: string) => maskInSteps(text), masked: config.piiMask.exports };
    const retention = new Retention(config.chat.ttlMs);
    const exports = new ExportService(database.exports, cursors, clock, retention, { personal });
    const request = await readRequest(values, cursors);
    const { out = '-', restart = false } = values;
    if (out === '-') {
      if (process.stdout.isTTY && request.compression !== 'none') {
        throw new CommandError('compressed output is not written to a terminal: choose a file with --out');
      }
      await exportToStream(exports, request, process.stdout, progress, stop.signal);
    } else {
      const options = { request, database: database.describe(), out, restart };
      await exportToFile(exports, options, progress, stop.signal);
    }
    progress.finish();
  } finally {
    progress.end();
    await database.close();
  }
}

class Stopped extends Error {}

const INTERRUPTED = 130;

await runCommand(async () => {
  try {
    await main();
  } catch (error) {
    // The program that reads the pipe has exited.
    if (errorCode(error) === 'EPIPE') process.exitCode = 1;
    else if (error instanceof Stopped) {
      process.exitCode = INTERRUPTED;
      const isFile = values.out !== undefined && values.out !== '-';
      console.error(`Stopped${isFile ? '; repeat the command line to resume' : ''}.`);
    } else throw error;
  }
});
