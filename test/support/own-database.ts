/** A separate database server with a database, for tests that kill or freeze it or cut its connections. */
import mysql from 'mysql2/promise';
import type { FaultProxy } from './fault-proxy.ts';
import { type Mariadb, startMariadb } from './mariadb.ts';
import type { StoredIn } from './snapshot.ts';

export interface OwnDatabase {
  readonly server: Mariadb;
  /** From where the tests read rows. */
  readonly place: StoredIn & { readonly url: string };
  /** The environment of the servers: the address of the database, or of a proxy in front of it. */
  env(proxy?: FaultProxy): Record<string, string>;
  readonly port: number;
}

export async function startOwnDatabase(): Promise<OwnDatabase> {
  const server = await startMariadb();
  const connection = await mysql.createConnection({ uri: server.url });
  await connection.query('CREATE DATABASE chat');
  await connection.end();
  const url = `${server.url}/chat`;
  const port = Number(new URL(url).port);
  return {
    server,
    port,
    place: { url },
    env(proxy) {
      const address = new URL(url);
      if (proxy) address.port = String(proxy.port);
      return { DATABASE_URL: address.href, DB_AUTO_MIGRATE: 'on' };
    },
  };
}
