"""The checkpoint tensors that make a write: the `outputs` column of architectures.py."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Projection:
    """A projection whose output is (a weighted part of) a write.

    Names are those on disk, relative to the layer; `*` stands for an expert's number. `output_axis` is the
    weight's axis of length d_model: −2 for a Linear and for stacked experts [expert, out, in], −1 for GPT-2's
    Conv1D and for experts [expert, in, out]. A bias has d_model last.
    """

    weight: str
    bias: str
    output_axis: int = -2
    #: One of several experts, of which a token takes a weighted few.
    experts: bool = False

    @property
    def input_axis(self) -> int:
        return -3 - self.output_axis


def linear(module: str, output_axis: int = -2) -> Projection:
    return Projection(f"{module}.weight", f"{module}.bias", output_axis, experts="*" in module)


def stacked(parameter: str, output_axis: int = -2) -> Projection:
    """Experts in one tensor, as transformers 5 keeps them."""
    return Projection(parameter, f"{parameter}_bias", output_axis, experts=True)


DENSE = (linear("mlp.down_proj"),)
#: Experts one by one or stacked; layers without experts are dense.
EXPERTS = (*DENSE, linear("mlp.experts.*.down_proj"), stacked("mlp.experts.down_proj"))
EXPERTS_AND_SHARED = (*EXPERTS, linear("mlp.shared_expert.down_proj"), linear("mlp.shared_experts.down_proj"))


def under(mlp: str, *made: Projection) -> tuple[Projection, ...]:
    """The same projections where the MLP is called otherwise."""
    return tuple(
        replace(one, weight=mlp + one.weight.removeprefix("mlp"), bias=mlp + one.bias.removeprefix("mlp"))
        for one in made
    )
