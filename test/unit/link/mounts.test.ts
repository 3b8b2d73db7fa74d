/** Paths through mounts, with real directories and links. */
import { mkdirSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { Mounts } from "../../../src/link/mounts.ts";
import { scratch } from "../../fixtures/harness.ts";

const load = (name: string) => ({ model: { name, dtype: "float32" }, seq_len: 8 });

function world() {
  const root = realpathSync(scratch());
  for (const path of [
    ".sparkablate/run",
    "models/llama",
    "models-old/llama",
    "baked",
    "models/private",
    "away",
  ])
    mkdirSync(join(root, path), { recursive: true });
  symlinkSync(join(root, "away"), join(root, "models", "link"));
  symlinkSync(join(root, "models"), join(root, "shortcut"));
  const address = `ipc://${root}/.sparkablate/run/worker.sock`;
  const mounts = new Mounts(address, [
    { host: join(root, "models"), worker: "/models", writable: false },
    { host: "./baked", worker: "/baked", writable: true },
    { host: join(root, "models", "private"), worker: "/private", writable: true },
  ]);
  return { root, mounts };
}

it("maps the real path by the longest mount, out and back", () => {
  const { root, mounts } = world();
  for (const [here, there] of [
    ["models/llama", "/models/llama"],
    ["models", "/models"],
    ["shortcut/llama", "/models/llama"],
    ["models/private/x", "/private/x"],
    ["models/../models/llama", "/models/llama"],
  ] as const)
    expect(mounts.outgoing("load", load(join(root, here))).model.name).toBe(there);
  expect(mounts.outgoing("tokenize", { dataset: { path: join(root, "models") } })).toEqual({
    dataset: { path: "/models" },
  });
  expect(mounts.incoming("load", { source: "/models/llama" })).toEqual({
    source: join(root, "models/llama"),
  });
  expect(
    mounts.incoming("bake", {
      directory: "/baked/a",
      gguf_command: "python x.py /baked/a --outfile /baked/a/m.gguf",
    }),
  ).toEqual({
    directory: join(root, "baked/a"),
    gguf_command: `python x.py ${root}/baked/a --outfile ${root}/baked/a/m.gguf`,
  });
  expect(mounts.incoming("load", { source: "/models-old" })).toEqual({ source: "/models-old" });
});

it("maps back by the longest mount of the worker's, and once", () => {
  const listed = [
    { host: "/srv/everything/of/mine", worker: "/data", writable: true },
    { host: "/m", worker: "/data/models", writable: true },
    { host: "/data", worker: "/scratch", writable: true },
  ];
  const mounts = new Mounts("tcp://127.0.0.1:5757", listed);
  for (const [there, here] of [
    ["/data/models/llama", "/m/llama"],
    ["/data/texts", "/srv/everything/of/mine/texts"],
    ["/scratch/models/x", "/data/models/x"],
  ] as const)
    expect(mounts.incoming("load", { source: there })).toEqual({ source: here });
});

it("keeps a command one that a shell reads, whatever the directories are called", () => {
  const mounts = new Mounts("tcp://127.0.0.1:5757", [
    { host: "/home/me/Anna's models", worker: "/models", writable: true },
    { host: "/data", worker: "/data dir", writable: true },
  ]);
  for (const [there, here] of [
    ["/models/a", `'/home/me/Anna'"'"'s models/a'`],
    ["'/models/a b'", `'/home/me/Anna'"'"'s models/a b'`],
    [`'/models/b'"'"'s'`, `'/home/me/Anna'"'"'s models/b'"'"'s'`],
    ["'/data dir/x'", "/data/x"],
    ["'/elsewhere/a b'", "'/elsewhere/a b'"],
  ] as const)
    expect(mounts.incoming("bake", { gguf_command: `python x.py ${there} --outtype f32` })).toEqual({
      gguf_command: `python x.py ${here} --outtype f32`,
    });
  expect(mounts.incoming("bake", { directory: "/data dir/x y", gguf_command: null })).toEqual({
    directory: "/data/x y",
    gguf_command: null,
  });
});

it("a path that leads through a file is what it says it is", () => {
  const { root, mounts } = world();
  writeFileSync(join(root, "models", "notes.txt"), "");
  expect(mounts.outgoing("load", load(join(root, "models/notes.txt/llama"))).model.name).toBe(
    "/models/notes.txt/llama",
  );
});

it("a path outside the mounts is an error that lists them; so is one that a link leads out of", () => {
  const { root, mounts } = world();
  for (const path of ["away", "models-old/llama", "models/link", ".sparkablate", "models/../away"]) {
    expect(() => mounts.outgoing("load", load(join(root, path))), path).toThrow(
      expect.objectContaining({
        code: "path_not_shared",
        exitCode: 2,
        message: expect.stringContaining(
          `it sees ${root}/models/private, ${root}/models (read only), ${root}/baked`,
        ),
      }),
    );
  }
});

it("writes only where the mount is writable, also to what is not there yet", () => {
  const { root, mounts } = world();
  expect(mounts.outgoing("bake", { out: join(root, "baked/new/one") })).toEqual({ out: "/baked/new/one" });
  expect(() => mounts.outgoing("bake", { out: join(root, "models/new") })).toThrow(
    expect.objectContaining({ code: "path_not_shared", message: expect.stringContaining("for writing") }),
  );
});

it("leaves names that are no paths alone, and everything where nothing is mounted or the worker is elsewhere", () => {
  const { root, mounts } = world();
  for (const name of ["builtin:smollm2-135m", "meta-llama/Llama-3.1-8B"])
    expect(mounts.outgoing("load", load(name)).model.name).toBe(name);
  expect(mounts.outgoing("tokenize", { dataset: null })).toEqual({ dataset: null });
  expect(mounts.outgoing("ping", {})).toEqual({});
  const listed = [{ host: "/srv", worker: "/models", writable: true }];
  expect(new Mounts("tcp://10.0.0.7:5757", listed).outgoing("load", load("/opt/llama")).model.name).toBe(
    "/opt/llama",
  );
  expect(new Mounts("ipc:///run/x/s", []).outgoing("load", load(root)).model.name).toBe(root);
  expect(() => new Mounts("tcp://127.0.0.1:5757", listed).outgoing("load", load("/opt/llama"))).toThrow(
    /is not shared/,
  );
});
