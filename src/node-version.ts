/** Imported before all else by index.ts: under an older Node the import fails with this sentence, and nothing else does. */
const OLDEST = 22;

if (Number(process.versions.node.split(".")[0]) < OLDEST)
  throw new Error(
    `sparkablate needs Node ${OLDEST} or newer to be imported; this is ${process.version} (${process.execPath}). ` +
      "The command sparkablate runs here all the same.",
  );
