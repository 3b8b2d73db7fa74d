/**
 * api-typescript.md: what src/index.ts exports, with its doc comments, as TypeDoc reads them. An exported name without
 * a comment, or one that refers to a type that is not exported, is an error.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Application, type TypeDocOptions } from "typedoc";
import type { PluginOptions } from "typedoc-plugin-markdown";
import { ERROR_CODES } from "../src/errors.ts";
import { partsOf, SITE_KINDS } from "../src/protocol/catalog.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

const HEAD = `# TypeScript API

What \`import { … } from "sparkablate"\` offers. This page is made from the doc comments of \`src/\` when the package is made,
and by \`npm run reference\`. There is an example in [README.md](../README.md#typescript). The Python engine has a page of its
own, [api-python.md](api-python.md); [errors.md](errors.md) explains every error code.
`;

const PARTS = SITE_KINDS.flatMap((kind) => partsOf(kind) ?? []);
const MAPS = ["Controller.inspect.__type.model_map.__type", "LoadedModel.model_map.__type", "ModelMap"];

const OPTIONS: TypeDocOptions & Partial<PluginOptions> = {
  entryPoints: [join(ROOT, "src", "index.ts")],
  tsconfig: join(ROOT, "tsconfig.build.json"),
  plugin: ["typedoc-plugin-markdown"],
  readme: "none",
  name: "sparkablate",
  disableGit: true,
  // Lines move with every edit.
  disableSources: true,
  excludeExternals: true,
  excludeInternal: true,
  sort: ["source-order"],
  validation: { notExported: true, notDocumented: true, invalidLink: true },
  // Values that the types are made from.
  intentionallyNotExported: ["ERROR_KINDS", "SiteIntervention", "skip", "direction"],
  // What tells the members of a union apart; the comment stands on the member.
  intentionallyNotDocumented: [
    ...["type", "model", "message", "plan", "error"].map((name) => `RunEvent.__type.${name}`),
    // Parts are named by the catalogue, which says what they are.
    ...["targets", "given"].flatMap((list) =>
      ["kind", ...PARTS.map(({ field }) => field)].map(
        (name) => `RunConfig.ablation.__type.${list}.__type.${name}`,
      ),
    ),
    ...PARTS.flatMap(({ count }) => MAPS.map((map) => `${map}.layers.__type.${count}`)),
  ],
  treatWarningsAsErrors: true,
  logLevel: "Warn",
  outputFileStrategy: "modules",
  entryFileName: "page",
  hidePageHeader: true,
  hidePageTitle: true,
  hideBreadcrumbs: true,
  useCodeBlocks: true,
  parametersFormat: "table",
  interfacePropertiesFormat: "table",
  classPropertiesFormat: "table",
  typeDeclarationFormat: "table",
  propertyMembersFormat: "table",
  tableColumnSettings: {
    hideDefaults: true,
    hideInherited: true,
    hideModifiers: true,
    hideOverrides: true,
    hideSources: true,
  },
};

/** The page's text. @throws Error where a public name has no comment; TypeDoc has said which. */
export async function typescriptReference(): Promise<string> {
  const out = mkdtempSync(join(tmpdir(), "sparkablate-reference-"));
  try {
    const app = await Application.bootstrapWithPlugins({ ...OPTIONS, out });
    const project = await app.convert();
    if (project === undefined) throw new Error("TypeDoc could not read src/index.ts");
    app.validate(project);
    if (app.logger.hasErrors() || app.logger.hasWarnings())
      throw new Error("public names without comments, or with types that are not exported: see above");
    await app.generateOutputs(project);
    return `${HEAD}\n${tidy(readFileSync(join(out, "page.md"), "utf8"))}`;
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** TypeDoc spells a union out wherever it is named. */
function tidy(markdown: string): string {
  const codes = new RegExp(`(?:\\\\\\| )?(?:\`"\\w+"\` \\\\\\| ){${ERROR_CODES.length - 1}}\`"\\w+"\``, "g");
  return `${markdown.replace(codes, "[`ErrorCode`](#errorcode)").trim()}\n`;
}
