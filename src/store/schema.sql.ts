/** Tables and views of results.sqlite. Ordinals count from 0 in the canonical order of the run. */
export const SCHEMA_VERSION = 2;

/** What 0.1.0 wrote: without the table `checksum`, which is added when such a run is resumed. */
export const UNCHECKED_VERSION = 1;

export const CHECKSUM_TABLE = `
CREATE TABLE checksum (
  name TEXT PRIMARY KEY,             -- of one of these tables
  rows INTEGER NOT NULL,
  sum INTEGER NOT NULL               -- over its definition and its rows: store/checksums.ts
) WITHOUT ROWID;
`;

export const SCHEMA = `
CREATE TABLE run (
  run_id TEXT NOT NULL,
  identity TEXT NOT NULL,            -- JSON: part -> its value, or its sha256
  model TEXT NOT NULL,               -- JSON: what the worker said at load
  facts TEXT NOT NULL,               -- JSON: texts, sizes, settings, the resolved config
  notices TEXT NOT NULL,             -- JSON list: what was dropped, capped or replaced
  finished_at TEXT
);
CREATE TABLE block (
  split TEXT NOT NULL,               -- evaluation | calibration | resample | patch: source of the evaluation block of that ordinal
  ordinal INTEGER NOT NULL,          -- order of evaluation
  position INTEGER NOT NULL,         -- index of the block in the text, of the item in the task
  sha256 TEXT NOT NULL,              -- of its token ids, int32 little-endian; of an item, with its answer's place
  PRIMARY KEY (split, ordinal)
) WITHOUT ROWID;
CREATE TABLE item (                  -- empty where a text is evaluated
  ordinal INTEGER PRIMARY KEY,       -- of the evaluation block that it is
  prompt TEXT NOT NULL,
  answer TEXT NOT NULL,
  wrong TEXT,
  tokens INTEGER NOT NULL            -- of the answer
);
CREATE TABLE condition (
  ordinal INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  interventions TEXT NOT NULL,       -- JSON
  nudge TEXT                         -- JSON: layer and seed of a null condition
);
CREATE TABLE measurement (
  condition INTEGER NOT NULL REFERENCES condition(ordinal),
  block INTEGER NOT NULL,            -- ordinal of an evaluation block
  metric TEXT NOT NULL,
  sum REAL NOT NULL,                 -- over the block's predicted tokens, or the item's value; float64
  PRIMARY KEY (condition, block, metric)
) WITHOUT ROWID;
CREATE TABLE attempt (
  condition INTEGER NOT NULL REFERENCES condition(ordinal),
  batch INTEGER NOT NULL,
  at TEXT NOT NULL,
  seconds REAL NOT NULL,
  flags TEXT NOT NULL,               -- JSON list
  code TEXT,                         -- error code; NULL where it was measured
  message TEXT,
  detail TEXT
);
CREATE INDEX attempt_condition ON attempt (condition);
CREATE TABLE mean (
  sha256 TEXT PRIMARY KEY,
  sites TEXT NOT NULL,               -- JSON: kind, layer, positions, width
  vectors BLOB NOT NULL              -- float32 little-endian, one site after the other
);
-- What the statistics are made of: one value a condition, block (or item) and metric, per predicted token.
-- (The table \`result\`, one row a condition, is written by result-table.ts.)
CREATE VIEW block_effect AS
  SELECT condition.id AS condition,
         block.position AS block,      -- index of the block in the text, of the item in the task
         measurement.metric AS metric,
         measurement.sum / tokens AS value,
         (measurement.sum - baseline.sum) / tokens AS delta
  FROM (SELECT iif(json_extract(facts, '$.task') IS NULL, json_extract(facts, '$.seq_len') - 1, 1) AS tokens FROM run)
  CROSS JOIN measurement
  JOIN condition ON condition.ordinal = measurement.condition
  JOIN block ON block.split = 'evaluation' AND block.ordinal = measurement.block
  LEFT JOIN measurement AS baseline ON baseline.condition = 0
    AND baseline.block = measurement.block AND baseline.metric = measurement.metric;
`;
