/** Completion for zsh, with what each word does. */
import { type CommandWords, type OptionWords, quoted, type Values } from "./words.ts";

export function zshCompletion(program: string, commands: readonly CommandWords[]): string {
  const described = commands.map(({ name, description }) =>
    quoted(`${name}:${description.replaceAll(":", "\\:")}`),
  );
  const ofCommand = commands.map(({ name, options, values }) => {
    const specs = [
      ...options.flatMap(optionSpecs),
      ...(values === null ? [] : [quoted(`*:argument:${action(values)}`)]),
    ];
    return `    ${name})\n      _arguments -s \\\n        ${specs.join(" \\\n        ")} ;;`;
  });
  return `#compdef ${program}
# ${program} completion for zsh. In ~/.zshrc, after compinit: source <(${program} completion zsh)
_${program}() {
  local -a commands
  commands=(
    ${described.join("\n    ")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
${ofCommand.join("\n")}
  esac
}
if [[ $funcstack[1] == _${program} ]]; then
  _${program} "$@"
else
  compdef _${program} ${program}
fi
`;
}

function optionSpecs({ names, description, values, isList }: OptionWords): string[] {
  const text = description.replaceAll(/[\\[\]:]/g, "\\$&");
  const value = values === null ? "" : `:value:${action(values)}`;
  // A list's values follow its option to the next one.
  return names.map((name) => quoted(`${isList ? "*" : ""}${name}[${text}]${value}`));
}

function action(values: Values): string {
  if (values === "files") return "_files";
  if (values === "directories") return "_files -/";
  return values === "anything" ? " " : `(${values.join(" ")})`;
}
