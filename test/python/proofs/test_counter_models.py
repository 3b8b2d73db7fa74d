"""Models that are no stack of layers on one stream, in ways that head slices, additions and zeroed heads do
not show: each loses the sites that this concerns, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny_models
from sparkablate.anatomy.architectures import locate
from sparkablate.errors import SparkablateError
from sparkablate.measure.likelihood import Likelihood
from sparkablate.proofs import self_test
from sparkablate.proofs.causality import prove_causal
from sparkablate.proofs.passes import TOKENS, unlike


def llama(**config: Any) -> Any:
    tiny = tiny_models.TINY["llama"]
    return tiny_models.make(tiny_models.Tiny("llama", {**tiny.config, **config}))


def failures(model: Any) -> dict[str, dict[str, Any]]:
    return {result["name"]: result for result in self_test.run(model, locate(model)) if not result["passed"]}


def after(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    module.register_forward_hook(lambda module, args, output: change(output))


def before(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    module.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))


def kept(module: nn.Module) -> list[Tensor]:
    """What the module gave last."""
    there: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        there[:] = [output]

    module.register_forward_hook(keep)
    return there


def layers(model: Any) -> Any:
    return model.model.layers


def test_a_plain_one_passes() -> None:
    assert failures(llama()) == {}
    prove_causal(Likelihood(model := llama(), locate(model)), 2 * TOKENS)


# ── 1. A tapped module acts once a pass, in one layer ────────────────────────────────────────
def test_a_module_that_acts_twice() -> None:
    model = llama()
    mlp = layers(model)[1].mlp
    own = mlp.forward
    busy: list[bool] = []

    def twice(x: Tensor) -> Tensor:
        if not busy:
            busy.append(True)
            mlp(x.flip(-1))
            busy.clear()
        return own(x)

    mlp.forward = twice
    found = failures(model)
    assert set(found) == {"once"}
    assert found["once"]["refused"] == ["L1.neuron", "L1.mlp", "L1.direction"]
    assert "model.layers.1.mlp.down_proj acts 2 times in a pass" in found["once"]["detail"]


def test_a_module_of_two_layers() -> None:
    model = llama()
    layers(model)[2].mlp = layers(model)[0].mlp
    found = failures(model)["once"]
    assert {"L0.mlp", "L0.neuron", "L2.mlp", "L2.neuron"} <= set(found["refused"])
    assert not any(label.startswith("L1") or label.endswith("head") for label in found["refused"])
    assert "one module in layers 0, 2" in found["detail"]


# ── 2. No storage is shared between layers ───────────────────────────────────────────────────
def tied(first: nn.Linear, second: nn.Linear) -> None:
    second.weight = first.weight


def of_one_memory(first: nn.Linear, second: nn.Linear) -> None:
    second.weight = nn.Parameter(first.weight.data.view(first.weight.shape))


def overlapping(first: nn.Linear, second: nn.Linear) -> None:
    rows, columns = first.weight.shape
    memory = torch.randn(rows + 1, columns)
    first.weight, second.weight = nn.Parameter(memory[:-1]), nn.Parameter(memory[1:])


@pytest.mark.parametrize("share", [tied, of_one_memory, overlapping])
@pytest.mark.parametrize(
    ("path", "sites"),
    [("mlp.up_proj", {"neuron", "mlp"}), ("self_attn.k_proj", {"head", "kv_group", "attn"})],
)
def test_weights_of_two_layers(share: Callable[..., None], path: str, sites: set[str]) -> None:
    model = llama()
    share(layers(model)[0].get_submodule(path), layers(model)[2].get_submodule(path))
    found = failures(model)
    assert set(found) == {"once"}
    assert set(found["once"]["refused"]) == {f"L{layer}.{site}" for layer in (0, 2) for site in sites}
    assert f"{path}.weight are the same weights" in found["once"]["detail"]


def test_weights_that_no_site_is_made_of_may_be_shared() -> None:
    model = llama()
    layers(model)[2].input_layernorm.weight = layers(model)[0].input_layernorm.weight
    assert failures(model) == {}
    once = next(test for test in self_test.run(model, locate(model)) if test["name"] == "once")
    assert once["detail"].endswith("; layers 0, 2 share weights that no site is made of")


def test_tensors_beside_each_other_in_one_memory_are_no_shared_weights() -> None:
    """As safetensors maps a file."""
    model = llama()
    memory = torch.randn(sum(parameter.numel() for parameter in model.parameters()))
    begin = 0
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            part = memory[begin : begin + parameter.numel()].view(parameter.shape)
            part.copy_(parameter.data)
            setattr(module, name, nn.Parameter(part))
            begin += part.numel()
    assert failures(model) == {}


# ── 3. No side channels ──────────────────────────────────────────────────────────────────────
def test_keys_and_values_of_another_layer() -> None:
    model = llama()
    for part in ("k_proj", "v_proj"):
        source = kept(layers(model)[0].self_attn.get_submodule(part))
        after(layers(model)[2].self_attn.get_submodule(part), lambda x, source=source: source[0].clone())
    found = failures(model)
    assert set(found) == {"entry"}
    assert found["entry"]["refused"] == ["L0.layer", "L0.direction", "L2.layer", "L2.direction"]
    assert "model.layers.2 reads more than the stream that enters it" in found["entry"]["detail"]
    assert "with what layers 0 compute" in found["entry"]["detail"]


def test_an_embedding_that_is_put_in_again() -> None:
    model = llama()
    embedded = kept(model.model.embed_tokens)
    before(layers(model)[2].mlp, lambda x: x + embedded[0])
    found = failures(model)
    assert set(found) == {"entry"}
    assert found["entry"]["refused"] == ["L2.layer", "L2.direction"]
    assert "with the tokens" in found["entry"]["detail"]


def test_what_acts_between_two_layers() -> None:
    model = llama()
    embedded = kept(model.model.embed_tokens)
    layers(model)[1].register_forward_pre_hook(lambda module, args: (args[0] + embedded[0], *args[1:]))
    found = failures(model)
    assert "something acts between them" in found["replayed_additions"]["detail"]
    assert "L1.direction" in found["replayed_additions"]["refused"]


# ── 4. All at the run's own length ───────────────────────────────────────────────────────────
def proved_at(model: Any, length: int) -> None:
    prove_causal(Likelihood(model, locate(model)), length)


def test_a_side_channel_that_opens_behind_the_short_text() -> None:
    model = llama()
    lower = kept(layers(model)[0])
    before(
        layers(model)[2].mlp, lambda x: torch.cat([x[:, :TOKENS], x[:, TOKENS:] + lower[0][:, TOKENS:]], 1)
    )
    assert failures(model) == {}
    proved_at(model, TOKENS)
    with pytest.raises(
        SparkablateError, match=r"from model\.layers\.1 on read more than the stream"
    ) as caught:
        proved_at(model, TOKENS + 4)
    assert caught.value.code == "architecture_unsupported"


def test_logits_that_are_scaled_on_long_texts() -> None:
    model = llama()
    own = model.forward

    def scaled(self: Any, input_ids: Tensor, **more: Any) -> Any:
        output = own(input_ids=input_ids, **more)
        output.logits = output.logits * (2 if input_ids.shape[1] > TOKENS else 1)
        return output

    model.forward = MethodType(scaled, model)
    assert failures(model) == {}
    with pytest.raises(SparkablateError, match="logits columns do not give the logits"):
        proved_at(model, TOKENS + 4)


# ── 5. Every key/value head ──────────────────────────────────────────────────────────────────
def test_a_grouping_that_is_wrong_in_the_middle_of_the_heads() -> None:
    model = llama(num_attention_heads=8, num_key_value_heads=4, head_dim=4)

    def groups_swapped(x: Tensor) -> Tensor:
        return x.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].flatten(-2)

    before(layers(model)[1].self_attn.o_proj, groups_swapped)
    found = failures(model)
    assert set(found) == {"value_rows", "all_heads_zero"}  # which is not tested then
    assert found["value_rows"]["refused"] == ["L1.head", "L1.kv_group"]


# ── 6. Every write writes, every edit shows ──────────────────────────────────────────────────
def test_a_write_of_nothing() -> None:
    model = llama()
    after(layers(model)[1].mlp, torch.zeros_like)
    found = failures(model)
    assert set(found) == {"effect", "neurons"}
    assert found["effect"]["refused"] == ["L1.neuron", "L1.mlp", "L1.layer", "L1.direction"]
    assert "model.layers.1.mlp is 0 at every token" in found["effect"]["detail"]


def test_an_edit_that_nothing_reads() -> None:
    """The layer takes the projection's output past the attention's."""
    model = llama()
    layer = layers(model)[1]
    projected = kept(layer.self_attn.o_proj)

    def forward(self: Any, hidden_states: Tensor, **more: Any) -> Tensor:
        self.self_attn(hidden_states=self.input_layernorm(hidden_states), **more)
        stream = hidden_states + projected[0]
        return stream + self.mlp(self.post_attention_layernorm(stream))

    layer.forward = MethodType(forward, layer)
    found = failures(model)
    assert set(found) == {"effect"}
    assert found["effect"]["refused"] == ["L1.attn"]
    assert (
        "zeroing its attn at model.layers.1.self_attn (output) changes nothing" in found["effect"]["detail"]
    )


def test_weights_that_are_zero_write_nothing_and_rightly_so() -> None:
    """A model of attention alone, and what a bake of mlp.zero leaves."""
    model = llama(attention_bias=True)
    with torch.no_grad():
        for layer in (0, 2):
            layers(model)[layer].mlp.down_proj.weight.zero_()
        layers(model)[1].self_attn.o_proj.weight.zero_()  # its bias still writes
    assert failures(model) == {}
    effect = self_test.run(model, locate(model))[-1]
    assert effect["detail"].endswith("3 of 3 layers, but for mlp of layers 0, 2, whose weights are 0")


# ── 7. Depth ─────────────────────────────────────────────────────────────────────────────────
def leaving_early(model: Any, when: Callable[[Tensor], bool]) -> None:
    stack = model.model
    own = stack.forward

    def forward(self: Any, input_ids: Tensor, **more: Any) -> Any:
        everything = self.layers
        self.layers = everything[:2] if when(input_ids) else everything
        try:
            return own(input_ids=input_ids, **more)
        finally:
            self.layers = everything

    stack.forward = MethodType(forward, stack)


def refused(model: Any, said: str) -> None:
    tests = self_test.run(model, locate(model))
    with pytest.raises(SparkablateError, match=said) as caught:
        self_test.require(model, tests)
    assert caught.value.code == "architecture_unsupported"
    assert len(tests) == 1
    assert len(tests[0]["refused"]) == 3 * 7


def test_depth_that_depends_on_tokens() -> None:
    model = llama()
    _, other = unlike(model, locate(model), TOKENS)
    leaving_early(model, lambda ids: bool(ids[0, 0] == other[0, 0]))
    refused(model, "on one text layers 0, 1, 2 run, on another 0, 1: depth depends on tokens")


def test_depth_that_depends_on_tokens_of_long_texts() -> None:
    model = llama()
    leaving_early(model, lambda ids: ids.shape[1] > TOKENS and bool(ids[0, 1] % 2))
    assert failures(model) == {}
    found = []
    for length in range(TOKENS + 4, TOKENS + 12):  # some of them draw an odd and an even one
        try:
            proved_at(model, length)
        except SparkablateError as error:
            found.append(error.message)
    assert any("depth depends on tokens" in message for message in found)


@pytest.mark.parametrize(("order", "said"), [((1, 0, 2), "1, 0, 2"), ((0, 1, 2, 1), "0, 1, 2, 1")])
def test_another_order(order: tuple[int, ...], said: str) -> None:
    model = llama()
    modules = list(layers(model))
    sites = locate(model)
    model.model.layers = nn.ModuleList(modules[index] for index in order)
    model.config.num_hidden_layers = len(order)
    tests = self_test.run(model, sites)
    with pytest.raises(SparkablateError, match=f"those that run are {said}"):
        self_test.require(model, tests)


def test_layers_that_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    unused = llama().model.layers
    sites = locate(model)
    model.model.layers = unused
    with pytest.raises(SparkablateError, match="those that run are none"):
        self_test.require(model, self_test.run(model, sites))


# ── What a layer is, of its kind ─────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "name", ["mistral", "gemma2", "gemma3_text", "gpt_oss", "cohere2", "gemma4_text_moe"]
)
def test_attention_that_a_row_takes_from_another_layer(name: str, tiny: Any) -> None:
    """Sliding for full, another rotary base: the layer's map names the attention of its neighbour."""
    model = tiny(name)
    sites = locate(model)
    mine, theirs = sites.layers[0], sites.layers[1]
    wrong = replace(
        mine,
        attention=theirs.attention,
        attention_output=theirs.attention_output,
        heads=theirs.heads,
        values=theirs.values,
        writes={**mine.writes, "attn": theirs.writes["attn"]},
    )
    found = {
        result["name"]: result
        for result in self_test.run(model, replace(sites, layers=(wrong, *sites.layers[1:])))
        if not result["passed"]
    }
    assert "one module in layers 0, 1" in found["once"]["detail"]
    assert {"L0.head", "L0.kv_group", "L0.attn", "L1.attn"} <= set(found["once"]["refused"])
    assert "L0.attn" in found["replayed_additions"]["refused"]
