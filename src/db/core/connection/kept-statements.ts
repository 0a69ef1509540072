export interface PreparingConnection {
  prepare(sql: string): object;
}

const MAX_STATEMENTS = 64;
/** Batches have statements of every length: longer ones are seldom used twice. */
const MAX_SQL_CHARS = 2048;

/**
 * Keeps the prepared statements of a SQLite connection. Knex prepares a statement each time it runs it, which takes as
 * long as running it. After a change of the schema, also by another process, SQLite prepares a kept statement again.
 */
export function keepStatements(connection: PreparingConnection): void {
  const kept = new Map<string, object>();
  const prepare = connection.prepare.bind(connection);
  connection.prepare = (sql) => {
    const found = kept.get(sql);
    if (found) return found;
    const statement = prepare(sql);
    if (sql.length > MAX_SQL_CHARS) return statement;
    if (kept.size === MAX_STATEMENTS) kept.clear();
    kept.set(sql, statement);
    return statement;
  };
}
