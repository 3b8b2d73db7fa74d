"""The end of a forward pass: final hidden states → logits in chunks → one value a predicted token.

Memory is what a sweep runs out of first: no [batch, pos, vocab] tensor is made unless the load check says
that chunks do not give the same bits on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparkablate.errors import SparkablateError
from sparkablate.metrics import Metric
from sparkablate.sites import SiteMap

#: Positions a chunk aims at. A GEMM of 1 to 3 rows takes another kernel and gives other bits, so chunks are
#: cut near-equal and never leave a short tail.
CHUNK_POSITIONS = 256


class Likelihood:
    """A model's body and head, one after the other. Every method runs in inference mode, without KV cache."""

    def __init__(self, model: Any, sites: SiteMap) -> None:
        self.model = model
        self.sites = sites
        #: [batch, pos] shapes that were checked → whether their logits must be made all at once.
        self.full_logits: dict[tuple[int, int], bool] = {}

    @torch.inference_mode()
    def final_hidden(self, ids: Tensor) -> Tensor:
        """ids [batch, pos] → what the head reads [batch, pos, d_model]."""
        return self.sites.stack(input_ids=ids, use_cache=False)[0]

    @torch.inference_mode()
    def check_chunks(self, ids: Tensor) -> Tensor:
        """Compares logits in chunks with the model's own on ``ids`` [batch, pos], bit for bit, and remembers
        the answer for this shape. Returns the final hidden states.

        Raises ``architecture_unsupported`` where even body and head, run one after the other on the whole
        batch, do not give the logits of the model's own forward pass.
        """
        shape = _shape(ids)
        full = self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)  # [batch * pos, vocab]
        hidden = self.final_hidden(ids)
        self.full_logits[shape] = False
        if not all(torch.equal(full[rows], logits) for rows, logits in self._chunks(hidden)):
            self.full_logits[shape] = True
            if not torch.equal(full, self.sites.to_logits(hidden).flatten(0, 1)):
                raise SparkablateError(
                    "architecture_unsupported",
                    f"{type(self.model).__name__}: its row's stack, head and logits columns, run one after "
                    "the other, do not give the logits of the model's own forward pass",
                )
        return hidden

    @torch.inference_mode()
    def measure(
        self, hidden: Tensor, ids: Tensor, metrics: list[Metric], baseline: Tensor | None
    ) -> dict[str, Tensor]:
        """Every column's value at every predicted token: [batch, pos - 1] each. Position 0 is never a target.

        ``hidden``, ``baseline``: final hidden states [batch, pos, d_model] of the condition and of the
        unedited model (None where no metric needs it). A shape that was not checked yet is checked now.
        """
        batch, length = shape = _shape(ids)
        if shape not in self.full_logits:
            self.check_chunks(ids)
        targets = ids.roll(-1, dims=1).flatten()  # [batch * pos]: row i predicts the id of row i + 1
        values: dict[str, list[Tensor]] = {column: [] for metric in metrics for column in metric.columns}
        baseline_chunks = None if baseline is None else self._chunks(baseline)
        for rows, chunk in self._chunks(hidden):
            logits = chunk.float()
            baseline_logits = None if baseline_chunks is None else next(baseline_chunks)[1].float()
            for metric in metrics:
                for column, value in zip(
                    metric.columns, metric.compute(logits, targets[rows], baseline_logits), strict=True
                ):
                    values[column].append(value)
        return {column: torch.cat(parts).view(batch, length - 1) for column, parts in values.items()}

    def _chunks(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows [n] of the flattened batch, their logits [n, vocab]) over all positions that predict."""
        batch, length, _ = hidden.shape
        rows = torch.arange(batch * length, device=hidden.device).view(batch, length)[:, :-1].flatten()
        pieces = rows.tensor_split(max(1, -(-len(rows) // CHUNK_POSITIONS)))
        flat = hidden.flatten(0, 1)
        if self.full_logits[(batch, length)]:
            full = self.sites.to_logits(hidden).flatten(0, 1)
            yield from ((piece, full[piece]) for piece in pieces)
        else:
            yield from ((piece, self.sites.to_logits(flat[piece])) for piece in pieces)


def block_sums(values: dict[str, Tensor], columns: tuple[str, ...]) -> np.ndarray:
    """Sums over each block's predicted tokens, float64 [columns, blocks]."""
    return torch.stack([values[column].cpu().double().sum(dim=1) for column in columns]).numpy()


def _shape(ids: Tensor) -> tuple[int, int]:
    return ids.shape[0], ids.shape[1]
