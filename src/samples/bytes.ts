/** Tokens as bytes. */

/** The ids as they cross the wire: little-endian int32. */
export function littleEndian(ids: Int32Array): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(ids.length * 4));
  for (const [position, id] of ids.entries()) bytes.setInt32(position * 4, id, true);
  return new Uint8Array(bytes.buffer);
}

/** int32 little-endian  # [blocks, seq_len] */
export function packIds(blocks: readonly Int32Array[]): Uint8Array {
  return Buffer.concat(blocks.map((block) => Buffer.from(block.buffer, block.byteOffset, block.byteLength)));
}
