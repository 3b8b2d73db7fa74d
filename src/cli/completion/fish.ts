/** Completion for fish, with what each word does. */
import { type CommandWords, type OptionWords, quoted, type Values } from "./words.ts";

export function fishCompletion(program: string, commands: readonly CommandWords[]): string {
  const lines = commands.flatMap(({ name, description, options, values }) => {
    const inside = `complete -c ${program} -n ${quoted(`__fish_seen_subcommand_from ${name}`)}`;
    return [
      `complete -c ${program} -n __fish_use_subcommand -f -a ${name} -d ${fishQuoted(description)}`,
      ...options.map((option) => `${inside} ${optionFlags(option)} -d ${fishQuoted(option.description)}`),
      ...(values === null || values === "anything" ? [] : [`${inside} ${valueFlags(values)}`]),
    ];
  });
  return `# ${program} completion for fish: ${program} completion fish > ~/.config/fish/completions/${program}.fish
complete -c ${program} -f
${lines.join("\n")}
`;
}

function optionFlags({ names, values }: OptionWords): string {
  const flags = names.map((name) => (name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`));
  return [...flags, ...(values === null ? [] : [`-r ${valueFlags(values)}`])].join(" ");
}

function valueFlags(values: Values): string {
  if (values === "files") return "-F";
  if (values === "directories") return "-f -a '(__fish_complete_directories)'";
  return values === "anything" ? "-f" : `-f -a ${quoted(values.join(" "))}`;
}

/** fish knows a backslash before a quote, and nothing else. */
const fishQuoted = (text: string): string => `'${text.replaceAll(/[\\']/g, "\\$&")}'`;
