"""Token ids as people have them are the same ids, and a mask is used: against each text run on its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_directory
import numpy as np
import pytest
import torch
from transformers import BatchEncoding

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec
from sparkablate.directions import find_directions
from sparkablate.edits.means import MeanKey
from sparkablate.model import load_model

IDS = tiny_models.tokens()

#: (batches [2, pos] of IDS) → the same, as somebody has them.
FORMS: dict[str, Callable[[], Any]] = {
    "a list of one": lambda: [IDS],
    "a generator": lambda: (one for one in [IDS]),
    "int32": lambda: IDS.int(),
    "uint8": lambda: IDS.to(torch.uint8),
    "an array": lambda: IDS.numpy(),
    "a nanoGPT memmap's dtype": lambda: [IDS.numpy().astype(np.uint16)],
    "big endian": lambda: IDS.numpy().astype(">i4"),
    "lists": lambda: [IDS.tolist()],
    "an encoding": lambda: BatchEncoding({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}),
    "an encoding of lists": lambda: BatchEncoding({"input_ids": IDS.tolist()}),
    "a dictionary in a list": lambda: [{"input_ids": IDS, "labels": IDS}],
    "three dimensions": lambda: IDS[None],
}


@pytest.mark.parametrize("form", FORMS)
def test_means_of_every_form_have_the_same_bits(form: str, tiny: Any) -> None:
    manager = AblationManager(tiny("llama"))
    keys = [MeanKey("mlp", 1), MeanKey("head", 0, "not_first")]
    want = manager.calibrate_means([IDS], keys)
    found = manager.calibrate_means(FORMS[form](), keys)
    assert all(torch.equal(found[key], want[key]) for key in keys)


@pytest.mark.parametrize("form", ["int32", "an array", "an encoding of lists", "uint8"])
def test_sources_of_every_form_have_the_same_bits(form: str, tiny: Any) -> None:
    manager = AblationManager(tiny("llama"))
    want = manager.record_sources(IDS)
    found = manager.record_sources(FORMS[form]())
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)


@pytest.mark.parametrize("row", ["llama", "gpt2", "mamba2", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_part_in_a_mean(row: str, side: str, tiny: Any) -> None:
    """The reference: each text on its own, without padding."""
    manager = AblationManager(tiny(row))
    texts = [IDS[0], IDS[1, :5], IDS[0, 3:10]]
    ids, mask = torch.full((4, 14), 7), torch.zeros(4, 14, dtype=torch.long)
    for number, text in enumerate(texts):
        place = slice(14 - len(text), None) if side == "left" else slice(len(text))
        ids[number, place], mask[number, place] = text, 1
    want = manager.calibrate_means([text[None] for text in texts])
    for encoding in (
        BatchEncoding({"input_ids": ids, "attention_mask": mask}),
        [{"input_ids": ids.numpy(), "attention_mask": mask.bool().numpy()}],
        BatchEncoding({"input_ids": ids.tolist(), "attention_mask": mask.tolist()}),
        BatchEncoding({"input_ids": [text.tolist() for text in texts]}),
        texts,
        [text.tolist() for text in texts],
    ):
        found = manager.calibrate_means(encoding)
        assert found.keys() == want.keys()
        assert all(torch.equal(found[key], want[key]) for key in want)


def test_an_encodings_mask_is_the_sources_mask(tiny: Any) -> None:
    manager = AblationManager(tiny("llama"))
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0
    want = manager.record_sources(IDS, attention_mask=mask)
    for given in (mask, mask.numpy(), mask.bool().tolist()):
        found = manager.record_sources(IDS, attention_mask=given)
        assert all(torch.equal(found[key], want[key]) for key in want)
    found = manager.record_sources(BatchEncoding({"input_ids": IDS, "attention_mask": mask}))
    assert all(torch.equal(found[key], want[key]) for key in want)
    plain = manager.record_sources(IDS)
    assert not all(torch.equal(plain[key], want[key]) for key in want)


def test_prompts_of_a_search_may_be_padded(tiny: Any) -> None:
    manager = AblationManager(tiny("llama"))
    sides = [[[1 + side, *range(5, 6 + number), 3] for number in range(9)] for side in range(2)]
    want = find_directions(manager, *sides, resamples=2)

    def padded(rows: list[list[int]], left: bool) -> BatchEncoding:
        length = max(map(len, rows))
        ids = [[0] * (length - len(row)) + row if left else row + [0] * (length - len(row)) for row in rows]
        ones = [
            [0] * (length - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (length - len(row))
            for row in rows
        ]
        return BatchEncoding({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ones)})

    for left in (True, False):
        found = find_directions(manager, *(padded(rows, left) for rows in sides), resamples=2)
        assert all(
            torch.equal(one.vector, other.vector)
            for one, other in zip(found.candidates, want.candidates, strict=True)
        )


def test_a_directions_vector_may_be_an_array_or_a_list() -> None:
    unit = torch.nn.functional.normalize(torch.randn(tiny_models.D_MODEL), dim=0)
    plain = DirectionSpec("project_out", unit)
    for vector in (unit.numpy(), unit.tolist(), unit.double().numpy(), unit.numpy()[::1].astype(">f4")):
        spec = DirectionSpec("project_out", vector)
        assert spec == plain
        assert torch.equal(spec.vector, unit)


def test_torchs_own_words_load_a_model(tmp_path: Path) -> None:
    directory = model_directory.save(tmp_path / "model")
    model, _ = load_model(directory, dtype=torch.float32, device=torch.device("cpu"))
    assert model.dtype == torch.float32
    with torch.inference_mode(), AblationManager(model).applied(AblationSpec("mlp", 1)):
        model(IDS)
