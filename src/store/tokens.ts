/** What the store keeps a token, for the conditions that somebody asked for. No type of SQLite's: users compile this. */

/** An evaluation block's tokens. */
export interface TokenBlock {
  /** Up to the last predicted one. */
  readonly ids: Int32Array;
  /** Position of the first predicted one. */
  readonly first: number;
}

/** Of one condition on one block: NLL at each predicted token. */
export interface TokenNll {
  readonly condition: number;
  readonly block: number;
  readonly nll: Float32Array;
}

/** Of one run. Nothing is there until something is kept. */
export interface TokenTables {
  /** In one transaction. */
  keep(blocks: ReadonlyMap<number, TokenBlock>, values: readonly TokenNll[]): void;
  keepTexts(texts: ReadonlyMap<number, Uint8Array>): void;
  /** Ordinals of the conditions that something is kept of. */
  conditions(): number[];
  /** By block. */
  nll(condition: number): Map<number, Float32Array>;
  /** By block. */
  blocks(): Map<number, TokenBlock>;
  /** By id: its bytes. */
  texts(): Map<number, Uint8Array>;
}
