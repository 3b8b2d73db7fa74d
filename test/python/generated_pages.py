"""What docs/ holds that the package already says: made from it, and compared by test_docs.py.

`npm run generate` writes it; `--check` fails where what is committed is not current.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import stock_biases
import tiny_wrappers
from model_classes import CLASSES, ORDER

import tiny_models
from sparkablate.anatomy import stock
from sparkablate.anatomy.architectures import locate
from sparkablate.anatomy.sites import SiteMap
from sparkablate.bake import readers, rules
from sparkablate.catalog import SITE_ORDER

DOCS = Path(__file__).parents[2] / "docs"

HEAD = """# Architectures

Which models can be edited, and where. This page is made from `worker/sparkablate/anatomy/architectures.py`
and a tiny model of every type; a test compares. `npx sparkablate inspect -m MODEL` says it for your model,
with module paths, and runs the self-test. Every row was read against the source of transformers; what is
said here of a type holds for the configurations that its row describes. A model that no row describes is
refused with its module tree; [extending.md](extending.md) shows how to add a row.

- `head`, `kv_group`: slices of the *input* of the attention's output projection. `attn`, `mlp`: what the
  block adds to the residual stream, after its post-norm where it has one. `layer`: skipped. `direction`: in
  writes or stream.
- *Norm after the write*: the write goes through a norm before it is added. *Norm on the stream*: a norm acts
  on the stream itself, and a skipped layer bypasses it too.

"""


#: As Markdown shows an asterisk.
STAR = r"\*"


def describe(sites: SiteMap) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sites that every layer offers, and what is particular."""
    everywhere = tuple(site for site in SITE_ORDER if all(site in layer.sites for layer in sites.layers))
    somewhere = {site for layer in sites.layers for site in layer.sites} - set(everywhere)
    notes = []
    for kinds, where in (
        ({"head", "kv_group"}, "only in layers with attention heads"),
        (set(SITE_ORDER) - {"head", "kv_group"}, "only in some layers"),
    ):
        if somewhere & kinds:
            listed = ", ".join(f"`{site}`" for site in SITE_ORDER if site in somewhere & kinds)
            notes.append(f"{listed} {where}")
    if not any(layer.n_heads for layer in sites.layers):
        notes.append("no attention heads")
    others = [name for name in sites.layers[0].writes if name not in ("attn", "mlp")]
    if others:
        notes.append(f"also writes: {', '.join(others)}")
    if sites.norm_after_write:
        notes.append("norm after the write")
    if sites.norm_on_stream:
        notes.append("norm on the stream")
    if any(layer.always_runs for layer in sites.layers):
        notes.append("a skipped layer still computes keys and values that later layers read")
    return everywhere, tuple(notes)


def architectures_page() -> str:
    """The text of architectures.md: one line for all model types of which the same is true."""
    rows: dict[tuple[tuple[str, ...], tuple[str, ...]], set[str]] = defaultdict(set)
    for tiny in (tiny_models.TINY | tiny_models.TWINS).values():
        if tiny.text_type is None:
            rows[describe(locate(tiny_models.make(tiny)))].add(tiny.model_type)
    wrapped = defaultdict(set)
    for wrapper in tiny_wrappers.WORKING:
        sites = locate(tiny_wrappers.build(wrapper))
        wrapped[sites.model_type].add(wrapper)
        if sites.model_type in tiny_wrappers.TOWERS:
            rows[describe(sites)].add(sites.model_type)
    times = Counter(model_type for model_types in rows.values() for model_type in model_types)
    lines = ["| model types | sites in every layer | particular |", "| :-- | :-- | :-- |"]
    for (sites, notes), model_types in sorted(rows.items(), key=lambda row: (len(row[0][1]), row[0])):
        names = ", ".join(f"`{name}`{STAR if times[name] > 1 else ''}" for name in sorted(model_types))
        lines.append(f"| {names} | {', '.join(f'`{site}`' for site in sites)} | {'; '.join(notes)} |")
    tail = [
        f"{len(tiny_wrappers.WORKING)} multimodal wrappers are tested around one of these, text only, with "
        "their other towers left alone. The text tower is found on the model itself, so that others of its "
        "kind work too; one that cannot be told from another is refused.",
        "",
        "| text model | wrappers |",
        "| :-- | :-- |",
        *(
            f"| `{text}` | {', '.join(f'`{name}`' for name in sorted(names))} |"
            for text, names in sorted(wrapped.items())
        ),
        "",
        "Refused: "
        + "; ".join(f"`{name}`: {why}" for name, why in sorted(tiny_wrappers.REFUSED.items()))
        + ".",
    ]
    star = f"{STAR} in more than one line: its configuration decides which."
    return HEAD + "\n".join([f"{len(times)} model types:", "", *lines, "", star, "", *tail]) + "\n"


def bake_table() -> str:
    """What bakes where: one line for all rows of the table of architectures that are alike."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, *cells in rules.table():
        alike[tuple(cells)].append(name)
    lines = [["model types", *rules.COLUMNS], [":--"] * (len(rules.COLUMNS) + 1)]
    lines += [[", ".join(names), *cells] for cells, names in alike.items()]
    return _markdown(lines)


def readers_table() -> str:
    """Where other programs are known to read a baked checkpoint wrongly."""
    lines = [["model type", "a head that was tied", "pruned layers"], [":--"] * 3]
    lines += [
        [name, reader.untied_head or "–", reader.pruned or "–"]
        for name, reader in readers.READERS.items()
        if reader.untied_head or reader.pruned
    ]
    return _markdown(lines)


def biases_table() -> str:
    """Which key of which stock configuration gives a writing projection a bias, and what else gets one."""
    found = stock_biases.found()
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, one in found.items():
        keys = (f"`{one.keys[kind]}`" if kind in one.keys else "–" for kind in stock_biases.KINDS)
        modules = ", ".join(
            f"`{path}`" for path in sorted({path for key in one.modules.values() for path in key})
        )
        alike[(*keys, modules)].append(name)
    lines = [["model types", "attention", "other mixers", "MLP", "all that get a bias"], [":--"] * 5]
    lines += [[", ".join(names), *cells] for cells, names in sorted(alike.items(), key=lambda row: row[1])]
    return _markdown(lines)


def cuts_table() -> str:
    """Which model types may lose key/value groups and neurons, and why others may not."""
    types = sorted({*stock.GROUPS, *stock.NO_GROUPS, *stock.NEURON_KEYS, *stock.NO_NEURONS})
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in types:
        how, why = stock.group_removal(name)
        key, no_key = stock.neuron_removal(name)
        alike[how or f"no: {why}", f"`{key}`" if key else f"no: {no_key}"].append(name)
    lines = [["model types", "key/value groups", "neurons"], [":--"] * 3]
    lines += [[", ".join(names), *cells] for cells, names in sorted(alike.items(), key=lambda row: row[1])]
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


TYPES_HEAD = """# Model types

Every causal language model type of transformers {version}, by a tiny model of each, shrunk from its default
configuration. This page is made from `worker/sparkablate/anatomy/classes.json`, which
`test/python/model_classes.py` writes; a test builds them all again and fails where a class gets worse.
`npx sparkablate inspect --architectures` prints it.

- *reviewed*: a row of [the table](architectures.md), read against the source.
- *discovered*: no row; one is found on the loaded model. The proofs of every load judge it like any other,
  reports say "discovered, not reviewed", and a bake certifies itself. `npx sparkablate inspect -m MODEL`
  prints the row as it can be added to the table.
- *partial*: some layers or sites are refused by those proofs.
- *refused*: why. Models that look ahead have no next-token NLL.
- *not built*: a tiny model cannot be made of shrunk numbers; your model may be any of the above.

"""


def types_page() -> str:
    found = json.loads(CLASSES.read_text(encoding="utf-8"))
    types = found["types"]
    counted = Counter(one["class"] for one in types.values())
    counts = ", ".join(f"{counted[name]} {name}" for name in ORDER if counted[name])
    lines = [["model type", "class", "sites, or why not"], [":--"] * 3]
    lines += [[f"`{name}`", one["class"], one["detail"].replace("|", "/")] for name, one in types.items()]
    head = TYPES_HEAD.format(version=found["transformers"])
    return f"{head}{len(types)} types: {counts}.\n\n{_markdown(lines)}"


def bake_page(page: str) -> str:
    """bake.md with its tables made anew, each between its two marks."""
    for mark, table in (
        ("<!-- generated -->\n", bake_table()),
        ("<!-- biases -->\n", biases_table()),
        ("<!-- cuts -->\n", cuts_table()),
        ("<!-- readers -->\n", readers_table()),
    ):
        before, _, rest = page.partition(mark)
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}{mark}\n{table}\n{end}{after}"
    return page


def pages() -> dict[Path, str]:
    """Every page that is made, whole or in part, and its text."""
    bake = DOCS / "bake.md"
    return {
        DOCS / "architectures.md": architectures_page(),
        bake: bake_page(bake.read_text(encoding="utf-8")),
        DOCS / "model-types.md": types_page(),
    }


def stale() -> dict[Path, str]:
    """Those that are not what is committed."""
    return {
        page: text
        for page, text in pages().items()
        if not page.exists() or page.read_text(encoding="utf-8") != text
    }


def main(arguments: list[str]) -> int:
    old = stale()
    if "--check" in arguments:
        for page in old:
            print(f"{page} is not current: run 'npm run generate'", file=sys.stderr)
        return 1 if old else 0
    for page, text in old.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
