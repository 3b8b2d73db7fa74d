import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { sha256 } from "../../../src/digest.ts";
import { readDirection, readDirectionFiles, requireWidth } from "../../../src/directions/file.ts";
import { scratch } from "../../fixtures/harness.ts";

interface Made {
  readonly values?: readonly number[];
  readonly metadata?: Record<string, string>;
  /** Changes of the tensor's description. */
  readonly tensor?: Record<string, unknown>;
  readonly name?: string;
}

function bytes({ values = [0.6, -0.8, 0], metadata, tensor, name = "direction" }: Made = {}): Buffer {
  const data = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) data.writeFloatLE(value, index * 4);
  const described = { dtype: "F32", shape: [values.length], data_offsets: [0, data.length], ...tensor };
  const header = { ...(metadata && { __metadata__: metadata }), [name]: described };
  return assembled(JSON.stringify(header), data);
}

function assembled(header: string, data: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
  return Buffer.concat([length, Buffer.from(header), data]);
}

function written(content: Buffer): string {
  const path = join(scratch(), "d.safetensors");
  writeFileSync(path, content);
  return path;
}

describe("a direction file", () => {
  it("gives the vector, its digest, layer and norm", () => {
    const read = readDirection(written(bytes({ metadata: { layer: "14", norm: "3.25", model: "m" } })));
    expect([...read.vector]).toEqual([Math.fround(0.6), Math.fround(-0.8), 0]);
    expect([read.layer, read.norm]).toEqual([14, 3.25]);
    const data = Buffer.alloc(12);
    data.writeFloatLE(0.6, 0);
    data.writeFloatLE(-0.8, 4);
    expect(read.sha256).toBe(sha256(data));
  });

  it("needs no metadata: then the norm is 1 and the layer unknown", () => {
    expect(readDirection(written(bytes()))).toMatchObject({ layer: null, norm: 1 });
  });

  it("may be padded as the safetensors library pads it", () => {
    const header = JSON.stringify({ direction: { dtype: "F32", shape: [1], data_offsets: [0, 4] } });
    const one = Buffer.alloc(4);
    one.writeFloatLE(1);
    expect([...readDirection(written(assembled(header.padEnd(80), one))).vector]).toEqual([1]);
  });

  const whole = bytes();
  const huge = Buffer.from(whole);
  huge.writeBigUInt64LE(2n ** 63n);
  const cases: [string, Buffer, RegExp][] = [
    ["empty", Buffer.alloc(0), /0 bytes are not a safetensors/],
    ["cut in the length", whole.subarray(0, 5), /5 bytes are not a safetensors/],
    ["cut in the header", whole.subarray(0, 40), /truncated/],
    ["cut in the data", whole.subarray(0, -1), /11 bytes .* 3 float32 take 12: it is truncated/],
    ["with bytes behind the data", Buffer.concat([whole, Buffer.alloc(4)]), /16 bytes/],
    ["with a huge header length", huge, /header claims 9223372036854775808 bytes/],
    ["with a header that is no JSON", assembled("{", Buffer.alloc(0)), /not JSON/],
    [
      "with a header that is no UTF-8",
      Buffer.concat([whole.subarray(0, 9), Buffer.from([0xff]), whole.subarray(10)]),
      /not JSON/,
    ],
    ["with a list as header", assembled("[]", Buffer.alloc(0)), /not a JSON object/],
    [
      "without a tensor",
      assembled("{}", Buffer.alloc(0)),
      /no tensor; allowed: one tensor named "direction"/,
    ],
    ["with another tensor", bytes({ name: "weight" }), /holds weight/],
    ["in float16", bytes({ tensor: { dtype: "F16" } }), /is "F16"; allowed: F32/],
    ["as a matrix", bytes({ tensor: { shape: [1, 3] } }), /shape \[1,3\]; allowed: \[d_model\]/],
    ["with a negative width", bytes({ tensor: { shape: [-3] } }), /shape \[-3\]/],
    ["with a width beyond all numbers", bytes({ tensor: { shape: [1e300] } }), /shape/],
    ["with a wrong width", bytes({ tensor: { shape: [4] } }), /4 float32 take 16/],
    ["with wrong offsets", bytes({ tensor: { data_offsets: [4, 16] } }), /offsets \[4,16\]/],
    [
      "with a description that is null",
      assembled('{"direction":null}', Buffer.alloc(0)),
      /is absent; allowed: F32/,
    ],
    ["with NaN", bytes({ values: [Number.NaN, 1] }), /NaN or infinite/],
    ["that is not of length 1", bytes({ values: [3, 4] }), /length is 5; allowed: 1 within 0.001: divide it/],
    ["that is almost not of length 1", bytes({ values: [1.0011] }), /length is 1.0011/],
    ["of zeros", bytes({ values: [0, 0] }), /length is 0/],
    ["with a negative norm", bytes({ metadata: { norm: "-1" } }), /norm is "-1"/],
    ["with a norm that is no number", bytes({ metadata: { norm: "" } }), /norm is ""/],
    ["with a layer that is no number", bytes({ metadata: { layer: "last" } }), /layer is "last"/],
  ];
  it.each(cases)("%s is refused, with the file's name", (_, content, message) => {
    const path = written(content);
    expect(() => readDirection(path)).toThrow(message);
    expect(() => readDirection(path)).toThrow(`${path}: `);
  });

  it("is refused where it is too large or is not there", () => {
    expect(() => readDirection(written(Buffer.alloc((16 << 20) + 1)))).toThrow(/too many for a direction/);
    expect(() => readDirection(join(scratch(), "none.safetensors"))).toThrow(
      /cannot be read: there is no such file/,
    );
    expect(() => readDirectionFiles([join(scratch(), "none.pt")])).toThrow(
      /cannot be read: there is no such file/,
    );
  });

  it("must be as wide as the model", () => {
    const directions = new Map([["d.safetensors", readDirection(written(bytes()))]]);
    const map = { d_model: 576 } as Parameters<typeof requireWidth>[1];
    expect(() => requireWidth(directions, map)).toThrow(
      "d.safetensors: the direction has 3 entries; allowed: 576",
    );
  });
});
