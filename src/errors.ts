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
  config_invalid: exit2("Correct the entries listed above; 'sparkablate init' writes a config that works."),
  input_missing: exit2("Check the path; relative paths start at your working directory."),
  text_too_short: exit2("Use a longer text, or lower eval.seq_len or eval.max_batches."),
  model_not_found: exit2("Give a Hugging Face id, a local model directory, or builtin:smollm2-135m."),
  architecture_unsupported: exit2(
    "Choose another model. If only a row of the architecture table is missing, add it as docs/extending.md shows.",
  ),
  site_unsupported: exit2("Choose a site that the model has; 'sparkablate inspect -m MODEL' lists them."),
  bake_refused: exit2("Measure it with 'sparkablate run' instead; docs/bake.md lists what can be baked."),
  conditions_overlap: exit2("Split the target into separate conditions."),
  path_not_shared: exit2("Move the file under one of the listed mounts."),
  other_run: exit2("Choose another output.dir, or pass --fresh to move the old directory aside."),
  not_ours: exit2("Choose another output.dir, or move the listed files away."),
  run_locked: exit2("Wait for the other controller to finish, or stop it."),
  environment_missing: exit3("Run 'sparkablate setup'."),
  worker_died: exit3(
    "Read the worker's last lines above; 'sparkablate doctor' checks the environment.",
    true,
  ),
  actor_died: exit3("Do nothing: another actor of the Ray worker measures the slice again.", true),
  worker_unreachable: exit3("Check that the worker is running and that its address is right.", true),
  worker_busy: exit3("Wait for the other controller, or start a worker of your own."),
  worker_stalled: exit3("Look at the worker's log; it stopped making progress.", true),
  protocol_mismatch: exit3("Install the same version for controller and worker."),
  session_lost: exit3(
    "Run the same command again; the worker restarted, or gave the session to another controller.",
    true,
  ),
  invalid_message: { exit: 70, retryable: false, help: "Please report this bug, with the message." },
  device_unavailable: exit3("Choose another model.device; 'sparkablate doctor' lists what is there."),
  load_failed: exit3("Correct what the message says about the model, and run the same command again."),
  disk_full: exit3("Free some space and run the same command again; no measurement is lost."),
  storage_failed: exit3(
    "Check the disk, and that you may write to it; then run the same command again. What was stored is kept.",
  ),
  store_corrupt: exit3("Restore the database from a copy, or pass --fresh. It was left untouched."),
  baseline_changed: exit3(
    "Find out what changed before you go on; docs/errors.md says where to look. Earlier measurements are kept.",
  ),
  measurement_conflict: exit3(
    "Do not trust this worker; it measured the same block twice with different results.",
  ),
  means_missing: exit3("Do nothing: the controller sends the calibrated means again.", true),
  out_of_memory: condition("Lower eval.batch_size or eval.seq_len."),
  nonfinite_logits: condition(
    "Try another model.dtype; the edit itself may also produce NaN or infinite logits.",
  ),
  hook_failed: condition("Read the traceback in the table 'attempt' of results.sqlite."),
  worker_crashed: condition("Read the worker's last lines; this condition, on its own, killed it twice."),
  certificate_failed: condition(
    "Do what the message proposes. If it proposes nothing, please report its figures with the model's name. Nothing was written.",
  ),
  interrupted: { exit: 130, retryable: false, help: "Run the same command again to continue." },
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
