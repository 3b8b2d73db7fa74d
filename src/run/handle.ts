/** A run as a program holds it: its rows as they come, its end, its final rows. */
import { SparkablateError } from "../errors.ts";
import type { Row } from "../results/row.ts";
import { readRun } from "../store/run-directory.ts";

/**
 * A run in progress. It begins when its updates are read, or when its end or its final rows are waited for.
 *
 * ```ts
 * const run = controller.run(config);
 * for await (const row of run.updates()) console.log(row.condition, row.blocks);
 * for (const row of await run.rows()) console.log(row.condition, row.delta_nll, row.q);
 * ```
 */
export class Run implements AsyncIterable<Row> {
  readonly #directory: string;
  readonly #work: AsyncGenerator<Row, void>;
  readonly #end = Promise.withResolvers<void>();
  #isRead = false;

  /** `Controller.run` makes it. @param work yields the updates. */
  constructor(directory: string, work: AsyncGenerator<Row, void>) {
    this.#directory = directory;
    this.#work = work;
    this.#end.promise.catch(() => undefined); // who waits for it is told
  }

  /**
   * A condition's row each time one more batch of it and of the baseline is stored; none where the run was finished
   * before. They can be read once; breaking off ends the run, with what was measured saved.
   *
   * @throws SparkablateError usage where they are being read already; what `Controller.run` says.
   */
  updates(): AsyncGenerator<Row, void> {
    if (this.#isRead)
      throw new SparkablateError(
        "usage",
        "the updates of a run are read once; its final rows are run.rows()",
      );
    this.#isRead = true;
    return this.#watched();
  }

  /** As `updates`. */
  [Symbol.asyncIterator](): AsyncGenerator<Row, void> {
    return this.updates();
  }

  /** Resolves when all is measured and the directory is complete. Rejects as `updates` throws, `interrupted` where that was broken off. */
  get done(): Promise<void> {
    if (!this.#isRead) void this.#drain();
    return this.#end.promise;
  }

  /** The finished table, the baseline first. Rejects as `done` does. */
  async rows(): Promise<readonly Row[]> {
    await this.done;
    return readRun(this.#directory).rows;
  }

  async *#watched(): AsyncGenerator<Row, void> {
    try {
      yield* this.#work;
      this.#end.resolve();
    } catch (error) {
      this.#end.reject(error);
      throw error;
    } finally {
      // Of no effect after either of the above.
      this.#end.reject(
        new SparkablateError("interrupted", "the run was broken off; what was measured is saved"),
      );
    }
  }

  async #drain(): Promise<void> {
    try {
      for await (const _ of this.updates());
    } catch {
      // #end has it.
    }
  }
}
