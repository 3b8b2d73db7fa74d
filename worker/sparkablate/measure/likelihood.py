"""The end of a forward pass: final hidden states → logits in chunks → one value a predicted token.

Memory is what a sweep runs out of first: no [batch, pos, vocab] tensor is made unless the load check says
that chunks do not give the same bits on this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparkablate.anatomy.modules import input_width
from sparkablate.anatomy.sites import SiteMap
from sparkablate.errors import SparkablateError
from sparkablate.loading.numerics import device_of
from sparkablate.measure.metrics import Metric, Rows

#: Positions a chunk aims at. A GEMM of 1 to 3 rows takes another kernel and gives other bits, so chunks are
#: cut near-equal and never leave a short tail.
CHUNK_POSITIONS = 256

#: Rows that are copied to the CPU at a time where logits are compared.
DIGEST_ROWS = 64


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
    def check_chunks(self, batch: int, length: int) -> None:
        """Compares the head's logits in chunks with those of a whole batch [batch, length], bit for bit, and
        remembers the answer for this shape.

        What may differ is the GEMM's kernel, which does not depend on values: the hidden states are random.
        So the body's weights need not be in memory yet, and of full logits and chunks only digests meet.
        """
        weight = next(self.sites.head.parameters())
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(batch, length, input_width(self.sites.head), generator=generator)
        hidden = hidden.to(device_of(self.sites.head), weight.dtype)
        full = _digest_full(self.sites.to_logits(hidden))
        self.full_logits[batch, length] = False
        self.full_logits[batch, length] = _digest(logits for _, logits in self._chunks(hidden)) != full

    @torch.inference_mode()
    def prove_head(self, ids: Tensor) -> None:
        """Compares body and head, run one after the other on ``ids`` [batch, pos], with the model's own
        forward pass, bit for bit. Raises ``architecture_unsupported`` where they differ."""
        own = _digest_full(self.model(input_ids=ids, use_cache=False).logits)
        if _digest_full(self.sites.to_logits(self.final_hidden(ids))) != own:
            raise SparkablateError(
                "architecture_unsupported",
                f"{type(self.model).__name__}: its row's stack, head and logits columns, run one after the "
                "other, do not give the logits of the model's own forward pass",
            )

    @torch.inference_mode()
    def measure(
        self,
        hidden: Tensor,
        ids: Tensor,
        metrics: list[Metric],
        baseline: Tensor | None,
        wrong: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every column's value at every predicted token: [batch, pos - 1] each. Position 0 is never a target.

        ``hidden``, ``baseline``: final hidden states [batch, pos, d_model] of the condition and of the
        baseline (None where no metric needs it). ``wrong``: int64 [batch, pos], what ``Rows`` says of a
        row's position. A shape that was not checked yet is checked now.
        """
        batch, length = ids.shape
        if (batch, length) not in self.full_logits:
            self.check_chunks(batch, length)
        targets = ids.roll(-1, dims=1).flatten()  # [batch * pos]: row i predicts the id of row i + 1
        values: dict[str, list[Tensor]] = {column: [] for metric in metrics for column in metric.columns}
        baseline_chunks = None if baseline is None else self._chunks(baseline)
        for rows, chunk in self._chunks(hidden):
            logits = chunk.float()
            baseline_logits = None if baseline_chunks is None else next(baseline_chunks)[1].float()
            chunk_rows = Rows(
                logits, targets[rows], baseline_logits, None if wrong is None else wrong.flatten()[rows]
            )
            for metric in metrics:
                for column, value in zip(metric.columns, metric.compute(chunk_rows), strict=True):
                    values[column].append(value)
        return {column: torch.cat(parts).view(batch, length - 1) for column, parts in values.items()}

    def _chunks(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows [n] of the flattened batch, their logits [n, vocab]) over all positions that predict."""
        batch, length, _ = hidden.shape
        pieces = predicting(batch, length, hidden.device)
        flat = hidden.flatten(0, 1)
        if self.full_logits[(batch, length)]:
            full = self.sites.to_logits(hidden).flatten(0, 1)
            yield from ((piece, full[piece]) for piece in pieces)
        else:
            yield from ((piece, self.sites.to_logits(flat[piece])) for piece in pieces)


def predicting(batch: int, length: int, device: torch.device) -> Sequence[Tensor]:
    """Of a flattened batch [batch * pos], the rows that predict a token, in near-equal chunks."""
    rows = torch.arange(batch * length, device=device).view(batch, length)[:, :-1].flatten()
    return rows.tensor_split(max(1, -(-len(rows) // CHUNK_POSITIONS)))


def block_sums(values: dict[str, Tensor], columns: tuple[str, ...]) -> np.ndarray:
    """Sums over each block's predicted tokens, float64 [columns, blocks]."""
    return torch.stack([values[column].cpu().double().sum(dim=1) for column in columns]).numpy()


def _digest_full(logits: Tensor) -> bytes:
    """Of the rows that predict a token: logits [batch, pos, vocab] without each block's last."""
    return _digest(block[:-1] for block in logits)


def _digest(parts: Iterable[Tensor]) -> bytes:
    """Of logits as the loss sees them, in float32: some models return them so, whatever their dtype."""
    digest = hashlib.blake2b()
    for part in parts:
        for rows in part.split(DIGEST_ROWS):
            digest.update(rows.float().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
