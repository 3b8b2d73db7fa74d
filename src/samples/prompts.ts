/** What commands that read prompts have in common: which day a chat template writes, what is no text, what is sent. */
import { SparkablateError } from "../errors.ts";
import { MAX_PAYLOAD_BYTES } from "../protocol/messages.ts";

/** How prompts become text. */
export interface TemplateOptions {
  /** Each prompt as a user's message in the model's chat template. */
  readonly chat_template?: boolean | undefined;
  /** What a chat template that writes the date takes for today, as 2026-11-29; default: today. */
  readonly template_date?: string | undefined;
}

/**
 * The day for the worker; null: no chat template.
 * @throws SparkablateError config_invalid for what is no day, or a day without a chat template.
 */
export function templateDay({ chat_template = false, template_date }: TemplateOptions): string | null {
  if (!chat_template) {
    if (template_date === undefined) return null;
    throw new SparkablateError("config_invalid", "a template date needs a chat template");
  }
  const day = template_date ?? today();
  // What has no such day counts on into the next month.
  const known = /^\d{4}-\d{2}-\d{2}$/.test(day) && !day.startsWith("0000") ? Date.parse(day) : Number.NaN;
  if (!Number.isNaN(known) && new Date(known).toISOString().startsWith(day)) return day;
  throw new SparkablateError("config_invalid", `template date "${day}"; allowed: a day, like 2026-11-29`);
}

function today(): string {
  const now = new Date();
  const local = new Date(now.getTime() - now.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 10);
}

/** @param written what the template wrote of a date; null: none. */
export const dateNotices = ({ template_date }: TemplateOptions, written: string | null): string[] =>
  written === null || template_date !== undefined
    ? []
    : [
        `the chat template writes the date, ${written}, into every prompt; pass --template-date ${written} to get the same prompts on another day`,
      ];

/** @throws SparkablateError config_invalid for half a surrogate pair, which would be sent as another character. */
export function requireUnicode(texts: readonly string[], what: string): void {
  const at = texts.findIndex((text) => !text.isWellFormed());
  if (at < 0) return;
  const message = `${what} ${at + 1} holds half a surrogate pair, which is not Unicode text`;
  throw new SparkablateError("config_invalid", message);
}

/** One behind the other, as they are sent. @throws SparkablateError config_invalid for more than a message holds. */
export function promptBytes(prompts: readonly string[]): Uint8Array {
  const bytes = Buffer.concat(prompts.map((prompt) => Buffer.from(prompt)));
  if (bytes.length <= MAX_PAYLOAD_BYTES) return bytes;
  const message = `the prompts have ${bytes.length} bytes; allowed: up to ${MAX_PAYLOAD_BYTES}`;
  throw new SparkablateError("config_invalid", message);
}
