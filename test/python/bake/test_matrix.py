"""Every row × every intervention: certified by one fresh process, or refused as the table says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stock_biases
import tiny_wrappers
import torch
from transformers import AutoConfig

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
from sparkablate.anatomy.architectures import ARCHITECTURES, Architecture, row_of
from sparkablate.anatomy.sites import LayerSites, SiteMap
from sparkablate.bake import live, rules
from sparkablate.bake.baking import Baking, Source, Written
from sparkablate.bake.certificate import judge, run_jobs
from sparkablate.bake.place import placed
from sparkablate.progress import silent
from sparkablate.specs import Spec

LAYER = 1


def models() -> dict[str, tiny_models.Tiny]:
    """The tiny models, and of their twins the first of each row that none of them has."""
    rows = {id(row_of(_text_config(tiny))) for tiny in tiny_models.TINY.values()}
    chosen = dict(tiny_models.TINY)
    for name, tiny in tiny_models.TWINS.items():
        if id(row := row_of(_text_config(tiny))) not in rows:
            rows.add(id(row))
            chosen[name] = tiny
    return chosen


def _text_config(tiny: tiny_models.Tiny) -> Any:
    return AutoConfig.for_model(tiny.text_type or tiny.model_type, **tiny.config)


MODELS = models()


def direction(width: int, seed: int = 0) -> torch.Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def project(sites: SiteMap, seed: int = 0, **more: Any) -> DirectionSpec:
    return DirectionSpec("project_out", direction(sites.d_model, seed), **more)


def with_heads(sites: SiteMap) -> LayerSites | None:
    return next((layer for layer in sites.layers if "head" in layer.sites), None)


@dataclass(frozen=True)
class Case:
    """`column`: of rules.COLUMNS. `specs`: None where the model has no such site."""

    column: str
    specs: Callable[[SiteMap], list[Spec] | None]
    prune: bool = False


def on_heads(kind: str, mode: str) -> Callable[[SiteMap], list[Spec] | None]:
    def specs(sites: SiteMap) -> list[Spec] | None:
        layer = with_heads(sites)
        if layer is None:
            return None
        last = (layer.n_heads if kind == "head" else layer.n_kv_heads) - 1
        parts = {"heads": (0, last)} if kind == "head" else {"groups": (last,)}
        return [AblationSpec(kind, layer.index, mode=mode, **parts)]

    return specs


def on_site(kind: str, mode: str = "") -> Callable[[SiteMap], list[Spec] | None]:
    return lambda sites: [AblationSpec(kind, LAYER, mode=mode)] if kind in sites.layers[LAYER].sites else None


def jointly(sites: SiteMap) -> list[Spec] | None:
    layer = with_heads(sites)
    if layer is None or layer.index == LAYER + 1 or "mlp" not in sites.layers[LAYER + 1].sites:
        return None
    head = AblationSpec("head", layer.index, heads=(0,))
    return [
        head,
        AblationSpec("mlp", LAYER + 1),
        project(sites, layers=(0, LAYER)),
        project(sites, 1),
    ]


def on_neurons(mode: str) -> Callable[[SiteMap], list[Spec] | None]:
    def specs(sites: SiteMap) -> list[Spec] | None:
        layer = sites.layers[LAYER]
        if "neuron" not in layer.sites:
            return None
        return [AblationSpec("neuron", LAYER, neurons=(0, layer.n_neurons - 1), mode=mode)]

    return specs


def constant(sites: SiteMap) -> list[Spec] | None:
    layer = sites.layers[LAYER]
    return (
        None
        if layer.no_constant or "layer" not in layer.sites
        else [AblationSpec("layer", LAYER, mode="mean")]
    )


ZERO, MEAN = "head, kv_group, attn, neuron, mlp zero", "head, attn, neuron mean"
CASES = {
    "head zero": Case(ZERO, on_heads("head", "zero")),
    "kv_group zero": Case(ZERO, on_heads("kv_group", "zero")),
    "attn zero": Case(ZERO, on_site("attn")),
    "mlp zero": Case(ZERO, on_site("mlp")),
    "neuron zero": Case(ZERO, on_neurons("zero")),
    "head mean": Case(MEAN, on_heads("head", "mean")),
    "kv_group mean": Case(MEAN, on_heads("kv_group", "mean")),
    "attn mean": Case(MEAN, on_site("attn", "mean")),
    "neuron mean": Case(MEAN, on_neurons("mean")),
    "mlp mean": Case("mlp mean", on_site("mlp", "mean")),
    "layer mean": Case("layer mean", constant),
    "layer mean, pruned": Case("layer mean", constant, prune=True),
    "layer skip": Case("layer skip", on_site("layer")),
    "layer 0 skip": Case("layer skip", lambda sites: [AblationSpec("layer", 0)]),
    "layer pruned": Case("layer pruned", on_site("layer"), prune=True),
    "direction of two layers": Case(
        "project_out, layers listed", lambda sites: [project(sites, layers=(0, LAYER))]
    ),
    "half a direction": Case(
        "project_out, layers listed",
        lambda sites: [project(sites, layers=(LAYER,), coefficient=0.5)],
    ),
    "direction everywhere": Case("project_out, layers: all", lambda sites: [project(sites)]),
    "jointly": Case("project_out, layers: all", jointly),
}


#: What a twin's row is tried with: every projection that it names, the embedding, and the configuration.
TWIN_CASES = ("head zero", "neuron zero", "mlp zero", "mlp mean", "layer pruned", "direction everywhere")


def cases_of(name: str) -> dict[str, Case]:
    return CASES if name in tiny_models.TINY else {case: CASES[case] for case in TWIN_CASES}


def biased(manager: AblationManager, spec: AblationSpec) -> bool:
    """Whether one Linear makes the write that has a bias, by the modules themselves, or can be given one."""
    layer = manager.sites.layers[spec.layer]
    keys = stock_biases.found().get(manager.sites.model_type, stock_biases.Found({}, {})).keys
    attention = "mixer" if layer.heads is None else "attention"
    kind = "mlp" if spec.kind in ("neuron", "mlp") else attention
    if kind in keys and not (spec.kind == "mlp" and layer.has_experts):
        return True
    if spec.kind != "mlp":
        projection: Any = layer.attention_output
        if spec.kind == "neuron":
            (projection,) = (
                module
                for name, module in layer.module.named_modules()
                if tiny_models.NEURON_READER.match(name)
            )
        if projection is None:  # a mixer without heads
            names = ("out_proj", "o_proj", "linear_out")
            projection = next(
                (getattr(layer.attention, one) for one in names if hasattr(layer.attention, one)), None
            )
        return getattr(projection, "bias", None) is not None
    tap: Any = layer.mlp_write
    names = ("down_proj", "c_proj", "fc2", "fc_out", "w2", "output_linear", "dense_4h_to_h")
    makers = [
        module
        for name, module in tap.module.named_modules()
        if name.split(".")[-1] in names or (name == "" and isinstance(module, torch.nn.Linear))
    ]
    return len(makers) == 1 and getattr(makers[0], "bias", None) is not None


def expected_refusal(case: Case, specs: list[Spec], row: Architecture, manager: AblationManager) -> bool:
    why = rules.COLUMNS[case.column](row)
    held_by = LAYER - (case.prune and case.column == "layer mean")  # the layer itself, or the next below
    # Of a row whose layers are of several kinds, it is said of those with experts.
    if why is not None and (why != rules.EXPERTS or manager.sites.layers[held_by].has_experts):
        return True
    if case.column == "layer mean":
        specs = [AblationSpec("mlp", held_by, mode="mean")]
        if "mlp" not in manager.sites.layers[held_by].writes:
            return True
    return any(
        isinstance(spec, AblationSpec) and spec.mode == "mean" and not biased(manager, spec) for spec in specs
    )


#: Pruning is refused where a layer's number means more than its place.
PRUNE_REFUSED = {"gemma4_text", "glm_moe_dsa", "minicpm3", "zamba2", "jamba", "gpt_neo"}


@dataclass(frozen=True)
class Outcome:
    refused: SparkablateError | None
    expected: bool
    written: Written | None


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[str, str], Outcome]]:
    """Everything that bakes is written, then one process checks it all."""
    root = tmp_path_factory.mktemp("matrix")
    patched = pytest.MonkeyPatch()
    patched.setattr(live, "BLOCKS", 2)
    patched.setattr(live, "LENGTH", 24)
    with ExitStack() as stack:
        made: dict[tuple[str, str], Outcome] = {}
        for name in MODELS:
            made |= {(name, case): outcome for case, outcome in write_all(name, root, stack).items()}
        written = [outcome.written for outcome in made.values() if outcome.written is not None]
        reports = run_jobs([one.job for one in written], root, silent, lambda: None)
        certificates = {
            id(one): judge(report, one.floor, one.job["dtype"])
            for one, report in zip(written, reports, strict=True)
        }
        for one in written:
            one.record["certificate"] = certificates[id(one)]
        yield made
    patched.undo()


def write_all(name: str, root: Path, stack: ExitStack) -> dict[str, Outcome]:
    model = tiny_models.make(MODELS[name])
    directory = root / name
    model.save_pretrained(directory)
    manager = AblationManager(model)
    ids = tiny_models.tokens(4, 16)
    manager.calibrate_means([ids])
    row = row_of(model.config.get_text_config())
    assert row is not None
    source = Source(name, None, directory, None, manager)
    outcomes = {}
    for case_name, case in cases_of(name).items():
        specs = case.specs(manager.sites)
        if specs is None:
            continue
        expected = expected_refusal(case, specs, row, manager)
        target = root / f"{name}-{case_name.replace(' ', '-')}"
        try:
            baking = Baking(source, specs, target, "float32", case.prune, force=False)
        except SparkablateError as error:
            outcomes[case_name] = Outcome(error, expected, None)
            continue
        place = stack.enter_context(placed(target))
        outcomes[case_name] = Outcome(None, expected, baking.write(place, silent, lambda: None))
    return outcomes


def test_every_row_has_a_model() -> None:
    rows = {id(row_of(_text_config(tiny))) for tiny in MODELS.values()}
    towers = {id(row_of(AutoConfig.for_model(name))) for name in tiny_wrappers.TOWERS}
    assert rows | towers >= {id(row) for row in ARCHITECTURES}


@pytest.mark.parametrize("name", MODELS)
def test_refused_as_the_table_says(name: str, outcomes: dict[tuple[str, str], Outcome]) -> None:
    for (model, case), outcome in outcomes.items():
        if model != name or (CASES[case].prune and name in PRUNE_REFUSED):
            continue
        assert (outcome.refused is not None) == outcome.expected, (
            case,
            outcome.refused,
        )
        if outcome.refused is not None:
            assert outcome.refused.code == "bake_refused", case


@pytest.mark.parametrize("name", MODELS)
def test_what_bakes_is_certified(name: str, outcomes: dict[tuple[str, str], Outcome]) -> None:
    mine = {case: outcome.written for (model, case), outcome in outcomes.items() if model == name}
    for case, written in mine.items():
        if written is not None:
            certificate = written.record["certificate"]
            assert certificate["passed"], (case, json.dumps(certificate, indent=1))
            assert written.job["tensors"], case
    row = row_of(_text_config(MODELS[name]))
    assert row is not None
    assert any(written is not None for written in mine.values()) == (not row.no_bake)


def test_layers_of_another_kind_refuse_pruning_by_name(
    outcomes: dict[tuple[str, str], Outcome],
) -> None:
    refused = outcomes["gemma4_text", "layer pruned"].refused
    assert refused is not None
    assert "num_kv_shared_layers" in refused.message
    assert "hidden_size_per_layer_input" in refused.message
