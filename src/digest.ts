/** What names content: of files, blocks, vectors and ids. */
import { createHash } from "node:crypto";

/** In lower-case hexadecimal digits; of a text, its UTF-8. */
export const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex");
