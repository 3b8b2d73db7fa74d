"""A metric as one number with a gradient: where a pass with gradients begins its way down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparkablate.errors import SparkablateError
from sparkablate.measure.items import Answers
from sparkablate.measure.likelihood import Likelihood, predicting
from sparkablate.measure.metrics import Metric, Rows, metrics_of

#: Metrics of one column that have a gradient.
FIRST_ORDER = ("nll", "logit_diff")


@dataclass(frozen=True)
class Loss:
    """The sum of a metric's values times `weights` [batch, pos - 1] over all predicted tokens of `ids`
    [batch, pos]. `wrong`: as in `Rows`, [batch, pos]."""

    metric: Metric
    ids: Tensor
    weights: Tensor
    wrong: Tensor | None = None

    def gradient(self, likelihood: Likelihood, hidden: Tensor) -> Tensor:
        """Final hidden states [batch, pos, d_model] → the loss's gradient there, of the same shape."""
        sites, (batch, length) = likelihood.sites, self.ids.shape
        flat = hidden.detach().flatten(0, 1)
        found = torch.zeros_like(flat)
        targets = self.ids.roll(-1, dims=1).flatten()
        weights = nn.functional.pad(self.weights, (0, 1)).flatten()
        wrong = None if self.wrong is None else self.wrong.flatten()
        for chunk in predicting(batch, length, hidden.device):
            rows = chunk[weights[chunk] != 0]  # whatever stands at what is not measured
            if len(rows) == 0:
                continue
            part = flat[rows].requires_grad_()
            logits = sites.to_logits(part)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            here = Rows(logits, targets[rows], None, None if wrong is None else wrong[rows])
            [values] = self.metric.compute(here)
            [found[rows]] = torch.autograd.grad((values * weights[rows]).sum(), part)
        if not bool(torch.isfinite(found).all()):
            raise SparkablateError("nonfinite_logits", "the loss's gradient is NaN or infinite at some token")
        return found.view_as(hidden)


def loss_of(metric: str, ids: Tensor, answers: Answers | None) -> Loss:
    """Of all blocks `ids` [batch, pos] together: the sum of what each of them, or each item, is measured as.

    Raises SparkablateError("config_invalid") for a metric that has no gradient, or no wrong answers.
    """
    if metric not in FIRST_ORDER:
        raise SparkablateError(
            "config_invalid", f"{metric} has no first-order term; allowed: {', '.join(FIRST_ORDER)}"
        )
    [found] = metrics_of([metric])
    wrong = None if answers is None else answers.wrong
    if found.needs == "wrong" and wrong is None:
        raise SparkablateError("config_invalid", f"{metric} needs a task with wrong answers")
    if answers is None:
        return Loss(found, ids, torch.ones(ids.shape[0], ids.shape[1] - 1, device=ids.device))
    weights = answers.scored.float()
    if found.item == "mean":
        weights = weights / weights.sum(dim=1, keepdim=True)
    return Loss(found, ids, weights, wrong)
