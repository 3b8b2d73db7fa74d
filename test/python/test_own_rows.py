"""Sites and metrics of somebody's own package: one call each, usable in Python and refused elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

PACKAGE = """
import torch
import sparkablate

sparkablate.register_site("mypkg.gate", "mlp.gate_proj", within="mlp")
sparkablate.register_site("mypkg.normed", "self_attn", side="input")


def entropy(rows):
    return torch.distributions.Categorical(logits=rows.logits).entropy()


def gap(rows):
    top = rows.logits.topk(2, dim=-1).values
    return top[:, 0] - top[:, 1], (rows.logits - rows.baseline).abs().amax(dim=-1)


sparkablate.register_metric("mypkg.entropy", entropy)
sparkablate.register_metric("mypkg.gap", gap, columns=["top", "moved"], needs="baseline")
"""

START = """
import sys
import torch
import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec, SparkablateError
import mypkg
model = tiny_models.build("llama")
manager = AblationManager(model)
ids, others = tiny_models.tokens(), tiny_models.tokens(seed=5)
torch.set_grad_enabled(False)
def logits(x=ids):
    return model(input_ids=x, use_cache=False).logits
def refused(work):
    try:
        work()
    except SparkablateError as error:
        return f"{error.code}: {error}"
    raise AssertionError("not refused")
"""

EDITS = """
from sparkablate.specs import condition_id
base, layer = logits(), model.model.layers[1]
spec = AblationSpec("mypkg.gate", layer=1)
assert condition_id([spec, AblationSpec("attn", 1)]) == "L1.attn.zero + L1.mypkg.gate.zero"
with manager.applied(spec):
    edited = logits()
assert torch.equal(logits(), base)
kept = layer.mlp.gate_proj.weight.clone()
layer.mlp.gate_proj.weight.zero_()
assert torch.equal(logits(), edited) and not torch.equal(edited, base)
layer.mlp.gate_proj.weight.copy_(kept)

# A mean, measured by a hook of our own; a donor of the same tokens changes nothing.
seen = []
hook = layer.mlp.gate_proj.register_forward_hook(lambda module, args, output: seen.append(output))
logits(others)
hook.remove()
means = manager.calibrate_means(others)
mean = means[("mypkg.gate", 1, "all")]
torch.testing.assert_close(mean, seen[0].flatten(0, 1).double().mean(0).float())
manager.set_means(means)
hook = layer.mlp.gate_proj.register_forward_hook(lambda module, args, output: mean.expand_as(output))
want = logits()
hook.remove()
with manager.applied(AblationSpec("mypkg.gate", 1, mode="mean")):
    assert torch.equal(logits(), want)
manager.record_sources(ids)
with manager.applied([AblationSpec("mypkg.gate", i, mode="patch") for i in range(3)]):
    assert torch.equal(logits(), base)
with manager.applied(AblationSpec("mypkg.normed", 1, positions="not_first")):
    assert not torch.equal(logits(), base)

# What is a part of what, and layers that lack it.
assert "edited both" in refused(lambda: manager.applied([spec, AblationSpec("mlp", 1)]).__enter__())
assert "skipped and edited" in refused(lambda: manager.applied([spec, AblationSpec("layer", 1)]).__enter__())
gpt2 = AblationManager(tiny_models.build("gpt2"))
assert refused(lambda: gpt2.applied(spec).__enter__()).startswith("site_unsupported: L1.mypkg.gate.zero")
"""

WALK = """
from sparkablate.measure.likelihood import Likelihood
from sparkablate.measure.metrics import metrics_of
from sparkablate.measure.walk import Walk, first_edit, prove_entries
likelihood = Likelihood(model, manager.sites)
walk = Walk(likelihood, prove_entries(likelihood, tiny_models.tokens(batch=1)), ids)
metrics = metrics_of(["nll", "mypkg.entropy", "mypkg.gap"])
for specs in ([AblationSpec("mypkg.gate", 1)], [AblationSpec("mypkg.normed", 2), AblationSpec("attn", 1)]):
    hidden = walk.final_hidden(first_edit(specs, manager.sites), lambda: manager.applied(specs))
    found = likelihood.measure(hidden, ids, metrics, likelihood.final_hidden(ids))
    with manager.applied(specs):
        edited = logits()[:, :-1].float()
    assert list(found) == ["nll", "mypkg.entropy", "mypkg.gap.top", "mypkg.gap.moved"]
    p = edited.softmax(-1)
    torch.testing.assert_close(found["mypkg.entropy"], -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-4)
    moved = (edited - logits()[:, :-1]).abs().amax(-1)
    torch.testing.assert_close(found["mypkg.gap.moved"], moved, rtol=1e-4, atol=1e-5)
    assert bool((moved > 0).any())
"""

ELSEWHERE = """
import sparkablate
from sparkablate.server import protocol
site, metric = sparkablate.register_site, sparkablate.register_metric
spec = AblationSpec("mypkg.gate", 1)
said = [
    refused(lambda: sparkablate.bake(model, spec, sys.argv[1])),
    next(iter(protocol._one_of(None, [], {"kind": "mypkg.gate"}, {}))).message,
    refused(lambda: site("gate", "mlp")),
    refused(lambda: site("mypkg.gate", "mlp")),
    refused(lambda: site("mypkg.x", "mlp gate")),
    refused(lambda: site("mypkg.x", "mlp", side="left")),
    refused(lambda: site("mypkg.x", "mlp", within="heads")),
    refused(lambda: metric("entropy", mypkg.entropy)),
    refused(lambda: metric("mypkg.entropy", mypkg.entropy)),
    refused(lambda: metric("mypkg.x", "entropy")),
    refused(lambda: metric("mypkg.x", mypkg.entropy, columns=["a b"])),
    refused(lambda: metric("mypkg.x", mypkg.entropy, needs="mean")),
]
for one in said:
    print(one)
site("mypkg.gate", "mlp.up_proj", replace=True)
with manager.applied(spec):
    edited = logits()
model.model.layers[1].mlp.up_proj.weight.zero_()
assert torch.equal(logits(), edited)

# A function that does not do what it says.
from sparkablate.measure.metrics import METRICS, Rows
rows = Rows(torch.zeros(4, 8), torch.zeros(4, dtype=torch.long))
metric("mypkg.wrong", lambda rows: rows.logits)
metric("mypkg.raises", lambda rows: rows.nothing)
print(refused(lambda: METRICS["mypkg.wrong"].compute(rows)))
print(refused(lambda: METRICS["mypkg.raises"].compute(rows)))
"""

SAID = [
    "bake_refused: L1.mypkg.gate.zero: no weights are known for a site of your own",
    "'mypkg.gate' is no known kind: only the Python process that registered it knows it",
    "config_invalid: name must be your package's name, a dot and the site's name",
    "usage: site 'mypkg.gate' is registered already; pass replace=True to replace it",
    "config_invalid: path leads from a layer to a module, e.g. \"mlp.gate_proj\", not 'mlp gate'",
    "config_invalid: side 'left' is none of input, output",
    "config_invalid: within 'heads' is none of attn, mlp, layer",
    "config_invalid: name must be your package's name, a dot and the metric's name",
    "usage: metric 'mypkg.entropy' is registered already; pass replace=True to replace it",
    "usage: function must be a function of Rows, not 'entropy'",
    "config_invalid: columns must be different names, not ['a b']",
    "config_invalid: needs 'mean' is none of baseline, wrong",
    "hook_failed: metric mypkg.wrong must give 1 tensor of shape [4], not a float32 tensor of shape [4, 8]",
    "hook_failed: metric mypkg.raises: AttributeError: 'Rows' object has no attribute 'nothing'",
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a package that knows of sparkablate, and of which sparkablate does not know."""
    directory = tmp_path_factory.mktemp("packages")
    (directory / "mypkg").mkdir()
    (directory / "mypkg" / "__init__.py").write_text(PACKAGE, encoding="utf-8")
    return directory


def ran(script: str, package: Path, *arguments: str) -> list[str]:
    paths = f"import sys\nsys.path[:0] = [{str(package)!r}, {str(HERE)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", paths + START + script, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", [EDITS, WALK], ids=["edits", "walk"])
def test_a_package_from_outside(script: str, package: Path) -> None:
    assert ran(script, package) == []


def test_elsewhere_they_are_refused_by_name(package: Path, tmp_path: Path) -> None:
    lines = ran(ELSEWHERE, package, str(tmp_path / "out"))
    assert len(lines) == len(SAID)
    for line, words in zip(lines, SAID, strict=True):
        assert line.startswith(words)


def test_what_a_package_registers_stays_in_its_process() -> None:
    from sparkablate.anatomy.sites import value_sites
    from sparkablate.measure.metrics import METRICS

    assert not [name for name in (*value_sites(), *METRICS) if "." in name]
