"""No model type of the pinned transformers gets worse; what is discovered is right by algebra, too."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model_classes import CLASSES, ORDER, classify, types
from shrunken import shrunken

from sparkablate import AblationManager, AblationSpec, SparkablateError, discover
from sparkablate.anatomy import architectures
from sparkablate.anatomy.architectures import ARCHITECTURES, Architecture
from sparkablate.anatomy.projections import linear
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.walk import Walk, first_edit, prove_entries
from sparkablate.proofs.discovery import as_source, located

README = Path(__file__).parents[3] / "README.md"
FOUND: dict[str, dict[str, str]] = json.loads(CLASSES.read_text(encoding="utf-8"))["types"]
DISCOVERED = [name for name, one in FOUND.items() if one["class"] == "discovered"]
IDS = torch.arange(3, 23).reshape(2, 10)


def test_the_classes_are_of_this_transformers() -> None:
    assert json.loads(CLASSES.read_text(encoding="utf-8"))["transformers"] == transformers.__version__
    assert types() == list(FOUND)


def test_the_readme_counts_them() -> None:
    counted = Counter(one["class"] for one in FOUND.values())
    text = README.read_text(encoding="utf-8")
    ((editable, of),) = re.findall(r"\[(\d+) of (\d+) model types\]", text)
    assert int(of) == len(FOUND)
    assert int(editable) == counted["reviewed"] + counted["discovered"]


@pytest.mark.parametrize("name", list(FOUND))
def test_no_type_gets_worse(name: str) -> None:
    now, then = classify(name), FOUND[name]
    assert ORDER.index(now["class"]) <= ORDER.index(then["class"]), now["detail"]
    if now["class"] == then["class"] != "not built":
        assert now["detail"] == then["detail"]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", DISCOVERED)
def test_edits_of_a_discovered_model_are_zeroed_weights_of_a_stock_copy(name: str) -> None:
    model = shrunken(name)
    stock = copy.deepcopy(model)
    sites = discover(model)
    assert sites.discovered is not None
    manager = AblationManager(model)
    layer = next((one for one in reversed(sites.layers) if "head" in one.sites), None)
    if layer is not None and layer.attention_output is not None:
        weight = stock.get_submodule(layer.heads.path).weight  # type: ignore[union-attr]
        columns = slice(2 * layer.d_head, 3 * layer.d_head)
        with torch.no_grad():
            (weight if hasattr(layer.attention_output, "nx") else weight.T)[columns] = 0
        with manager.applied(AblationSpec("head", layer.index, heads=(2,))):
            torch.testing.assert_close(logits(model), logits(stock), rtol=1e-5, atol=1e-6)
        assert not torch.equal(logits(model), logits(stock))
        stock = copy.deepcopy(model)
    # A skipped layer is one that is not there: the stack without it gives the same.
    skipped = 1
    with manager.applied(AblationSpec("layer", skipped)):
        edited = logits(model)
    bypass(stock.get_submodule(sites.layers[skipped].path))
    assert torch.equal(edited, logits(stock))
    walks(model, manager)


def walks(model: Any, manager: AblationManager) -> None:
    """The walk from layer to layer gives the plain pass's bits, or is not taken and says why."""
    likelihood = Likelihood(model, manager.sites)
    entries = prove_entries(likelihood, IDS[:1])
    specs = [AblationSpec("mlp", 1)]
    if not entries.walkable:
        assert entries.reason
        return
    walked = Walk(likelihood, entries, IDS).final_hidden(
        first_edit(specs, manager.sites), lambda: manager.applied(specs)
    )
    with manager.applied(specs), torch.inference_mode():
        assert torch.equal(walked, likelihood.final_hidden(IDS))


def bypass(layer: Any) -> None:
    """Makes a stock layer give its input, by a hook of our own."""

    def entry_of(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        entry = args[0] if args else kwargs["hidden_states"]
        return (entry, *output[1:]) if isinstance(output, tuple) else entry

    layer.register_forward_hook(entry_of, with_kwargs=True)


@pytest.mark.parametrize("name", DISCOVERED[:3])
def test_the_row_that_is_printed_is_the_row_that_was_found(name: str) -> None:
    printed = located(shrunken(name)).discovered
    assert printed is not None
    row = eval(printed, vars(architectures))
    assert isinstance(row, Architecture)
    assert as_source(row) == printed


@pytest.mark.parametrize("row", ["llama", "gpt_neox", "gemma2", "olmo2", "granite", "cohere2", "phi"])
def test_reviewed_rows_are_found_again(row: str, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the table empty, discovery finds the same sites as the row that was read against the source."""
    reviewed = located(tiny(row))
    monkeypatch.setattr("sparkablate.anatomy.architectures.ARCHITECTURES", ())
    found = located(copy.deepcopy(tiny(row)))
    assert found.discovered is not None
    assert found.logits == reviewed.logits
    assert found.norm_after_write == reviewed.norm_after_write
    for mine, theirs in zip(found.layers, reviewed.layers, strict=True):
        assert (mine.n_heads, mine.n_kv_heads, mine.d_head, mine.n_neurons) == (
            theirs.n_heads,
            theirs.n_kv_heads,
            theirs.d_head,
            theirs.n_neurons,
        )
        assert mine.heads == theirs.heads
        assert mine.writes == theirs.writes
        assert mine.additions is theirs.additions
        assert mine.sites == theirs.sites


def test_a_wrapped_model_is_discovered_where_it_will_be_edited() -> None:
    model = shrunken(DISCOVERED[0])
    discover(torch.nn.DataParallel(model))
    with AblationManager(torch.nn.DataParallel(model)).applied(AblationSpec("mlp", 1)):
        logits(model)


def test_a_model_whose_sites_are_not_found_is_refused_by_name() -> None:
    with pytest.raises(SparkablateError, match=r"none was found: .*\n.*Its modules") as caught:
        discover(shrunken("rwkv"))
    assert caught.value.code == "architecture_unsupported"


def test_the_projection_of_a_row_is_written_out() -> None:
    row = Architecture(("new",), stack="body", outputs=(("mlp", (linear("ff.out"),)),))
    assert as_source(row) == (
        "Architecture(\n    ('new',),\n    stack='body',\n    outputs=(('mlp', (linear('ff.out'),)),),\n)"
    )
    assert as_source(ARCHITECTURES[0]).startswith("Architecture(\n    ('llama',")
