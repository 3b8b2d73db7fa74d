/** `--set eval.max_batches=2`: values from the command line, parsed as YAML, put over the file's. */
import { keyName, type Path } from "./problems.ts";
import { isForbiddenKey, readYaml, type Source } from "./yaml.ts";

const KEY = /^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d{1,9}\])*$/;

/** Applies one override to `source`, in place; what cannot be applied becomes one of its problems. */
export function override(source: Source, assignment: string): Source {
  const place = `--set ${assignment}`;
  const refuse = (message: string): Source => {
    source.problems.push({ code: "config_invalid", line: `${place}: ${message}` });
    return source;
  };
  const equals = assignment.indexOf("=");
  const key = assignment.slice(0, equals).trim();
  if (equals < 0 || !KEY.test(key))
    return refuse("is not an assignment; allowed: key=value, like eval.max_batches=2");
  const path = key.split(/[.[]/).map((part) => (part.endsWith("]") ? Number(part.slice(0, -1)) : part));
  const forbidden = path.find((part) => typeof part === "string" && isForbiddenKey(part));
  if (forbidden !== undefined) return refuse(`${key}: is not a key of any config`);

  const given = readYaml(assignment.slice(equals + 1), () => place);
  if (given.problems.length > 0) {
    source.problems.push(...given.problems);
    return source;
  }
  const root = isContainer(source.value) ? source.value : {};
  const fault = assign(root, path, given.value);
  if (fault === undefined) source.origins.replace(path, place);
  else
    source.problems.push({
      code: "config_invalid",
      line: `${place}: ${keyName(fault.path)}: ${fault.message}`,
    });
  return { ...source, value: root };
}

type Container = Record<string | number, unknown>;

function isContainer(value: unknown): value is Container {
  return typeof value === "object" && value !== null;
}

/** Sets `root[path] = value`, making the sections in between that are absent or null. */
function assign(root: Container, path: Path, value: unknown): { path: Path; message: string } | undefined {
  let parent = root;
  for (const [depth, part] of path.entries()) {
    const here = path.slice(0, depth);
    if (Array.isArray(parent) !== (typeof part === "number")) {
      const allowed = Array.isArray(parent)
        ? `a number in brackets, like ${keyName([...here, 0])}`
        : "a key behind a dot";
      return { path: here, message: `has no "${part}"; allowed: ${allowed}` };
    }
    if (typeof part === "number" && !(part in parent)) {
      return { path: here, message: `has no entry ${part}: name one that the file has` };
    }
    if (depth === path.length - 1) {
      parent[part] = value;
      return undefined;
    }
    const child = parent[part] ?? (typeof path[depth + 1] === "number" ? [] : {});
    if (!isContainer(child))
      return { path: [...here, part], message: "is a value, and has no keys of its own" };
    parent[part] = child;
    parent = child;
  }
  return undefined;
}
