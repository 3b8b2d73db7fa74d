/**
 * One error class, one table. A code says what went wrong; the table says which exit
 * code it ends the CLI with, whether the same request may be sent again, and what a person can do.
 */

interface ErrorKind {
  /** Exit code of the CLI when this error ends a command (spec: 1, 2, 3, 70 or 130). */
  readonly exit: 1 | 2 | 3 | 70 | 130;
  /** True where the controller may send the request again after reconnecting or reloading. */
  readonly retryable: boolean;
  /** One line: what to do about it. */
  readonly help: string;
}

const exit2 = (help: string): ErrorKind => ({ exit: 2, retryable: false, help });
const exit3 = (help: string, retryable = false): ErrorKind => ({ exit: 3, retryable, help });
/** A failure of one condition: the sweep goes on, and the run ends with exit code 1. */
const condition = (help: string): ErrorKind => ({ exit: 1, retryable: false, help });

export const ERROR_KINDS = {
  usage: exit2("See 'sparkablate --help'."),
  config_invalid: exit2("Correct what is listed; 'sparkablate init' writes a config that works."),
  input_missing: exit2("Check the path; paths are relative to the directory you stand in."),
  text_too_short: exit2("Use a longer text, or lower eval.seq_len or eval.max_batches."),
  model_not_found: exit2("Give a Hugging Face id, a local model directory, or builtin:smollm2-135m."),
  architecture_unsupported: exit2(
    "Choose another model; where only a row of the architecture table is missing, add it: docs/extending.md.",
  ),
  site_unsupported: exit2("'sparkablate inspect -m MODEL' lists the sites this model offers."),
  bake_refused: exit2(
    "docs/bake.md lists what has an exact weight equivalent; 'sparkablate run' needs none.",
  ),
  conditions_overlap: exit2("Split the target into separate conditions."),
  path_not_shared: exit2("Move the file under one of the listed mounts."),
  other_run: exit2("Choose another output.dir, or pass --fresh to move the old directory aside."),
  not_ours: exit2("Choose another output.dir, or move away what is listed."),
  run_locked: exit2("Wait for the other controller to finish, or stop it."),
  environment_missing: exit3("Run 'sparkablate setup'."),
  worker_died: exit3("The worker's last lines are above; 'sparkablate doctor' checks the environment.", true),
  actor_died: exit3(
    "An actor of the Ray worker ended while it measured; its slice is measured again by another.",
    true,
  ),
  worker_unreachable: exit3("Check that the worker runs and that its address is right.", true),
  worker_busy: exit3("Wait for the other controller, or start a worker of your own."),
  worker_stalled: exit3("The worker stopped making progress; look at its log.", true),
  protocol_mismatch: exit3("Controller and worker come from different versions: install the same one."),
  session_lost: exit3("The worker restarted or gave the session to another controller.", true),
  invalid_message: { exit: 70, retryable: false, help: "Please report this, with the message." },
  device_unavailable: exit3("Choose another model.device; 'sparkablate doctor' lists what is there."),
  load_failed: exit3("The model could not be loaded; the worker's message says why."),
  disk_full: exit3("Free some space and run the same command again; nothing measured is lost."),
  storage_failed: exit3(
    "Check the disk and whether it may be written to; what was committed is kept, and the same command goes on.",
  ),
  store_corrupt: exit3("The database is left untouched. Restore it from a copy, or pass --fresh."),
  baseline_changed: exit3(
    "The worker's baseline is no longer bit-identical; it was stopped to protect the run.",
  ),
  measurement_conflict: exit3(
    "The worker measured the same block twice with different results; do not trust it.",
  ),
  means_missing: exit3("The worker lost the calibrated means; the controller sends them again.", true),
  out_of_memory: condition("Lower eval.batch_size or eval.seq_len."),
  nonfinite_logits: condition("The edited model produced NaN or infinite logits; another dtype may help."),
  hook_failed: condition("The intervention raised an exception; the traceback is in the attempt table."),
  worker_crashed: condition("This condition killed the worker twice on its own."),
  certificate_failed: condition(
    "Nothing was written. Do what the message proposes; where it proposes nothing, please report its figures with the model's name.",
  ),
  interrupted: { exit: 130, retryable: false, help: "Run the same command again to go on." },
  internal: {
    exit: 70,
    retryable: false,
    help: "This is a bug in sparkablate: please report it, with the traceback.",
  },
} as const satisfies Record<string, ErrorKind>;

/** What went wrong: docs/errors.md has cause and cure of each. */
export type ErrorCode = keyof typeof ERROR_KINDS;
export const ERROR_CODES = Object.keys(ERROR_KINDS) as [ErrorCode, ...ErrorCode[]];

/** Facts as fields: what a caller needs to decide is never only in the message. */
export class SparkablateError extends Error {
  /** The same in every copy of the package, where `instanceof` may fail. */
  override readonly name = "SparkablateError";
  /** What went wrong. */
  readonly code: ErrorCode;
  /** Traceback of the worker, last lines of its stderr, or other text for a person who debugs. */
  readonly detail: string | undefined;
  readonly #help: string | undefined;
  readonly #lines: readonly string[];

  /**
   * @param message a list: one line each, and a line break inside one is part of a name.
   * @param options `detail` and `cause` for a person who debugs; `help` instead of the code's own.
   */
  constructor(
    code: ErrorCode,
    message: string | readonly string[],
    options: { detail?: string | undefined; help?: string | undefined; cause?: unknown } = {},
  ) {
    super(typeof message === "string" ? message : message.join("\n"), { cause: options.cause });
    this.#lines = typeof message === "string" ? [message] : message;
    this.code = code;
    this.detail = options.detail;
    this.#help = options.help;
  }

  /** The message as it is to be shown: a line break inside of one of them was in a name. */
  get lines(): readonly string[] {
    return this.#lines;
  }

  /** Of the command line, when this error ends it. */
  get exitCode(): number {
    return ERROR_KINDS[this.code].exit;
  }

  /** Whether the controller sends the request again by itself. */
  get retryable(): boolean {
    return ERROR_KINDS[this.code].retryable;
  }

  /** One line that says what to do. */
  get help(): string {
    return this.#help ?? ERROR_KINDS[this.code].help;
  }
}
