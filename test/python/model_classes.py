"""Which model types of the pinned transformers can be edited: worker/sparkablate/anatomy/classes.json.

`python test/python/model_classes.py` builds a tiny model of each and writes the file; with types as arguments
it prints theirs. test/python/anatomy/test_classes.py compares.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import transformers
from shrunken import shrunken
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sparkablate.anatomy.sites import SiteMap
from sparkablate.catalog import SITE_ORDER
from sparkablate.errors import SparkablateError
from sparkablate.proofs.discovery import located, unproved

CLASSES = Path(__file__).parents[2] / "worker" / "sparkablate" / "anatomy" / "classes.json"
#: The better first.
ORDER = ("reviewed", "discovered", "partial", "refused", "not built")


def types() -> list[str]:
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def classify(model_type: str) -> dict[str, str]:
    """`class` and `detail` of a type, by a tiny model of it."""
    try:
        model = shrunken(model_type)
    except Exception as error:  # whatever a configuration of other numbers makes of them
        return _class("not built", f"{type(error).__name__}: {str(error).splitlines()[0]}")
    try:
        sites = located(model)
        refused = unproved(model, sites)
    except SparkablateError as error:
        return _class("refused", str(error).splitlines()[0].rpartition("none was found: ")[2])
    except Exception as error:  # a model that cannot be run as every other is
        return _class("refused", f"{type(error).__name__}: {str(error).splitlines()[0]}")
    offered = sites.refusing(refused)
    if refused:
        return _class("partial", _offer(offered))
    return _class("reviewed" if sites.discovered is None else "discovered", _offer(offered))


def _class(name: str, detail: str) -> dict[str, str]:
    return {"class": name, "detail": detail[:200].rstrip(".")}


def _offer(sites: SiteMap) -> str:
    """Sites that all layers have, then those that some have."""
    kinds = [site for site in SITE_ORDER if any(site in layer.sites for layer in sites.layers)]
    everywhere = [site for site in kinds if all(site in layer.sites for layer in sites.layers)]
    somewhere = [site for site in kinds if site not in everywhere]
    return ", ".join(everywhere) + (f"; in some layers {', '.join(somewhere)}" if somewhere else "")


def main(arguments: list[str]) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    if arguments:
        for name in arguments:
            print(name, classify(name))
        return
    found: dict[str, Any] = {name: classify(name) for name in types()}
    text = json.dumps({"transformers": transformers.__version__, "types": found}, indent=1)
    CLASSES.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
