"""Writes interventions into the weights: a stock checkpoint, certified against the live intervention.

from sparkablate import AblationSpec
from sparkablate.bake import bake

report = bake("builtin:smollm2-135m", AblationSpec(kind="head", layer=14, heads=(3, 7)), "out/no-3-7")
print(report["certificate"]["behaviour"]["logit_difference"])
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sparkablate.arguments import as_text, described, require_path
from sparkablate.bake.baking import Baking, Source, Telling
from sparkablate.bake.cuts import Wish
from sparkablate.bake.foresight import Wanted, foresee
from sparkablate.bake.in_memory import Wanted as InMemory
from sparkablate.bake.in_memory import bake_object
from sparkablate.condition_ids import with_ids_read
from sparkablate.edits.means import MeanKey
from sparkablate.errors import SparkablateError
from sparkablate.loading.configuration import resolve_source
from sparkablate.loading.model_files import ModelFiles, here, settled
from sparkablate.loading.open import open_model
from sparkablate.manager import AblationManager
from sparkablate.progress import Progress, silent
from sparkablate.proofs import self_test
from sparkablate.proofs.discovery import located
from sparkablate.specs import Spec, as_specs

__all__ = ["bake"]


class _Package(ModuleType):
    """`sparkablate.bake` is this package as soon as anybody has imported it: calling it is calling `bake`."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return bake(*arguments, **options)


sys.modules[__name__].__class__ = _Package


def bake(
    model: str | os.PathLike[str] | nn.Module,
    specs: Spec | str | Sequence[Spec | str],
    out: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    dtype: str | torch.dtype = "auto",
    prune_layers: bool = False,
    prune_kv_groups: bool = False,
    prune_neurons: bool = False,
    timed: bool = False,
    force: bool = False,
    means: Mapping[MeanKey, Tensor] | None = None,
    revision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Bakes one condition of `model` into the directory `out`, which appears certified or not at all.

    Args:
        model: Hugging Face id, local directory, or `builtin:smollm2-135m`; or a model object, whose weights
            are baked as they stand, outside `applied` and with adapters merged. The certificate is then
            against this very object, or its cast to the result's dtype, and the base model is "in memory".
        specs: the interventions, applied jointly: specs, or ids like "L14.head[3,7].zero". A DirectionSpec
            needs its `vector`.
        out: the directory to make.
        source: of a model object: the directory whose other files (tokenizer, templates, licence) are copied.
        tokenizer: of a model object: the tokenizer to save with it, in the place of `source`.
        dtype: of the result: "float32", "source" for the source's own, or "auto": the source's where the edit
            is exact in it (zero, skip, pruned layers), float32 where it is computed (a direction, a mean).
        prune_layers: delete skipped layers instead of making them the identity.
        prune_kv_groups, prune_neurons: remove key/value groups (with their query heads) and neurons that are
            zeroed or stand at their mean; as many in every layer, whichever they are, since a stock
            configuration knows one number.
        timed: measure how many tokens a second stock transformers reads with the model before and after:
            `timing` of what is returned, None where both do not fit into memory beside each other.
        force: replace `out` where an earlier bake made it.
        means: calibrated means, for mode="mean" (`AblationManager.calibrate_means`).
        revision, device, threads: as in `load_model`.
        progress: told `(stage, done, total, unit)`.

    Returns what `sparkablate_bake.json` holds. Raises SparkablateError: "bake_refused" where there is no
    exact weight equivalent, "certificate_failed", "disk_full", "usage" for a target that exists, and what
    `load_model` and `applied` raise.
    """
    wanted = as_specs(with_ids_read(specs, None, ()))
    require_path("out", out)
    target, name, wanted_dtype = Path(out), as_text(model), as_text(dtype)
    wish = Wish(prune_kv_groups, prune_neurons)
    if not callable(progress):
        raise SparkablateError("usage", f"progress must be a function, not {described(progress)}")
    if isinstance(model, nn.Module):
        given = InMemory(
            wanted, target, wanted_dtype, prune_layers, force, means, source, tokenizer, threads, wish, timed
        )
        return bake_object(model, given, progress)
    if not isinstance(name, str):
        raise SparkablateError(
            "usage", f"model must be a model, its directory or its Hugging Face id, not {described(model)}"
        )
    if source is not None or tokenizer is not None:
        which = "source" if source is not None else "tokenizer"
        raise SparkablateError("usage", f"{which} goes with a model object; leave it out for {name!r:.200}")
    form = foresee(
        name, revision, False, Wanted(wanted, target, wanted_dtype, prune_layers, force, wish)
    ).form
    before = settled(here(resolve_source(name), revision))
    opened = open_model(
        name,
        revision=revision,
        dtype=form.live,
        device=as_text(device),
        threads=threads,
        may_offload=True,
    )
    files = ModelFiles(opened.directory, opened.tokenizer, before, progress)
    sites = located(opened.model)
    refused = self_test.require(opened.model, self_test.run(opened.model, sites))
    manager = AblationManager(opened.model, sites.refusing(refused))
    if means is not None:
        manager.set_means(means)
    read = Source(name, opened.revision, opened.directory, opened.tokenizer, manager)
    baking = Baking(read, wanted, target, form.written, prune_layers, force, wish, Telling(timed))
    del opened, manager, read, sites  # the live model is freed before the fresh process loads its own
    return baking.run(progress, files.check)  # what is baked are the weights that were loaded
