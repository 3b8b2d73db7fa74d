/** Completion for bash, back to macOS' 3.2. */
import { type CommandWords, quoted, type Values } from "./words.ts";

export function bashCompletion(program: string, commands: readonly CommandWords[]): string {
  const afterOption = commands.flatMap(({ name, options }) =>
    options.flatMap(({ names, values }) =>
      values === null
        ? []
        : [`    ${names.map((option) => quoted(`${name} ${option}`)).join("|")}) ${reply(values)} return ;;`],
    ),
  );
  const ofCommand = commands.map(({ name, options, values }) => {
    const words = options.flatMap(({ names }) => names).join(" ");
    const bare = values === null ? "" : ` [[ $current == -* ]] || { ${reply(values)} return; };`;
    return `    ${name})${bare} _${program}_words ${quoted(words)} ;;`;
  });
  return `# ${program} completion for bash. In ~/.bashrc: eval "$(${program} completion bash)"
_${program}_words() {
  local IFS=$' \\t\\n'
  COMPREPLY=($(compgen -W "$1" -- "$current"))
}
_${program}_paths() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen "$1" -- "$current"))
  compopt -o filenames 2> /dev/null
}
_${program}() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]} command='' word
  COMPREPLY=()
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      -*) ;;
      *) command=$word; break ;;
    esac
  done
  case "$command $previous" in
${afterOption.join("\n")}
  esac
  case $command in
    '') _${program}_words ${quoted([...commands.map(({ name }) => name), "--help", "--version"].join(" "))} ;;
${ofCommand.join("\n")}
  esac
}
complete -F _${program} ${program}
`;

  function reply(values: Values): string {
    if (values === "files") return `_${program}_paths -f;`;
    if (values === "directories") return `_${program}_paths -d;`;
    return values === "anything" ? "" : `_${program}_words ${quoted(values.join(" "))};`;
  }
}
