"""Writes interventions into the weights: a stock checkpoint, certified against the live intervention.

from sparkablate import AblationSpec
from sparkablate.bake import bake

report = bake("builtin:smollm2-135m", AblationSpec(kind="head", layer=14, heads=(3, 7)), "out/no-3-7")
print(report["certificate"]["behaviour"]["logit_difference"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sparkablate.arguments import require_path
from sparkablate.bake.baking import Baking, Source, result_dtype
from sparkablate.bake.foresight import Wanted, foresee
from sparkablate.edits.means import MeanKey
from sparkablate.loading.configuration import resolve_source
from sparkablate.loading.model_files import ModelFiles, here, settled
from sparkablate.loading.open import open_model
from sparkablate.manager import AblationManager
from sparkablate.progress import Progress, silent
from sparkablate.proofs import self_test
from sparkablate.proofs.discovery import located
from sparkablate.specs import Spec, as_specs

__all__ = ["bake"]


def bake(
    model: str,
    specs: Spec | Sequence[Spec],
    out: str | Path,
    *,
    dtype: str = "float32",
    prune_layers: bool = False,
    force: bool = False,
    means: Mapping[MeanKey, Tensor] | None = None,
    revision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Bakes one condition of `model` into the directory `out`, which appears certified or not at all.

    Args:
        model: Hugging Face id, local directory, or `builtin:smollm2-135m`.
        specs: the interventions, applied jointly. A DirectionSpec needs its `vector`.
        out: the directory to make.
        dtype: of the result: "float32", or "source" for the source's own.
        prune_layers: delete skipped layers instead of making them the identity.
        force: replace `out` where an earlier bake made it.
        means: calibrated means, for mode="mean" (`AblationManager.calibrate_means`).
        revision, device, threads: as in `load_model`.
        progress: told `(stage, done, total, unit)`.

    Returns what `sparkablate_bake.json` holds. Raises SparkablateError: "bake_refused" where there is no
    exact weight equivalent, "certificate_failed", "disk_full", "usage" for a target that exists, and what
    `load_model` and `applied` raise.
    """
    wanted = as_specs(specs)
    require_path("out", out)
    foresee(model, revision, False, Wanted(wanted, Path(out), dtype, prune_layers, force))
    name = result_dtype(resolve_source(model), dtype, revision)
    before = settled(here(resolve_source(model), revision))
    opened = open_model(
        model, revision=revision, dtype=name, device=device, threads=threads, may_offload=True
    )
    files = ModelFiles(opened.directory, opened.tokenizer, before, progress)
    sites = located(opened.model)
    refused = self_test.require(opened.model, self_test.run(opened.model, sites))
    manager = AblationManager(opened.model, sites.refusing(refused))
    if means is not None:
        manager.set_means(means)
    source = Source(model, opened.revision, opened.directory, opened.tokenizer, manager)
    baking = Baking(source, wanted, Path(out), dtype, prune_layers, force)
    del opened, manager, source, sites  # the live model is freed before the fresh process loads its own
    return baking.run(progress, files.check)  # what is baked are the weights that were loaded
