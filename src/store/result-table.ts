/** The table `result` of results.sqlite: the rows as JSONL and CSV have them, to the last digit. */
import type Database from "better-sqlite3";
import { sqlType } from "../results/columns.ts";
import { flatRecord, type TableShape, tableColumns } from "../results/layout.ts";
import type { Row } from "../results/row.ts";
import { Tally, writeChecksum } from "./checksums.ts";

/**
 * Writes the table anew in one transaction.
 * @param give hands over the rows, one call a row.
 */
export function writeResultTable(
  database: Database.Database,
  shape: TableShape,
  give: (add: (row: Row) => void) => void,
): void {
  const columns = tableColumns(shape);
  const definitions = columns.map((column) => `${quoted(column)} ${sqlType(column)}`);
  database.transaction(() => {
    database.exec("DROP TABLE IF EXISTS result");
    const definition = `CREATE TABLE result (${definitions.join(", ")})`;
    database.exec(definition);
    const tally = new Tally("result");
    tally.define(definition);
    const insert = database.prepare(`INSERT INTO result VALUES (${columns.map(() => "?").join(", ")})`);
    give((row) => {
      const record = flatRecord(row);
      const cells = columns.map((column) => cell(record[column]));
      insert.run(cells);
      tally.add(cells);
    });
    writeChecksum(database, "result", tally);
  })();
}

const cell = (value: string | number | boolean | null = null): string | number | null =>
  typeof value === "boolean" ? Number(value) : value;

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
