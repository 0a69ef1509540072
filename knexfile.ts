/** For Knex's own command line: `npx knex migrate:status`. The server and the npm scripts do not read it. */
import { loadConfig } from './src/config/config.ts';
import { loadEnvironment } from './src/config/environment.ts';
import { knexConfig } from './src/db/core/client.ts';

export default knexConfig({ ...loadConfig(loadEnvironment()).database, queryTimeoutMs: 0 });
