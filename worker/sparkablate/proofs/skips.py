"""With all layers skipped the tail gets the stream that enters the first."""

from __future__ import annotations

import torch

from sparkablate.proofs.passes import Subject, entry_of
from sparkablate.specs import AblationSpec


def skip_fault(subject: Subject) -> str | None:
    sites = subject.sites
    first = entry_of(sites.layers[0])
    specs = [AblationSpec("layer", layer.index) for layer in sites.layers if "layer" in layer.sites]
    if len(specs) < sites.n_layers:
        return None
    try:
        with subject.manager.applied(specs):
            found = sites.stack(input_ids=subject.ids, use_cache=False)[0]
    except (RuntimeError, TypeError, AttributeError, IndexError, ValueError) as error:
        return f"the model does not run with its layers skipped: {error}"
    wanted = sites.finish(subject.plain.recorded[first.path, first.side])
    if found.shape == wanted.shape and torch.equal(found, wanted):
        return None
    return "with all layers skipped the final hidden states are not made of the stream that enters layer 0"
