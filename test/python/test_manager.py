"""Interventions against algebra and against models whose weights were edited instead.

Every row × site × mode. A reference never uses a hook: it changes weights of a copy, deletes a layer, or
follows from what an edit must leave unchanged.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec
from sparkablate.anatomy.modules import input_width
from sparkablate.anatomy.sites import Tap
from sparkablate.edits.hooks import recording
from sparkablate.errors import SparkablateError
from sparkablate.manager import MeanKey

ROWS = list(tiny_models.TINY)
IDS = tiny_models.tokens()
#: Parameters of the projections through which an MLP, its experts and its shared experts write.
MLP_WRITERS = re.compile(r"(down_proj|mlp\.c_proj|fc2|fc_out|dense_4h_to_h)(_bias|\.weight|\.bias)?$")
NORMED_STREAM = ("opt_post_norm", "bloom_post_norm")


def logits(model: Any, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, **kwargs).logits


def edited(manager: AblationManager, specs: Any, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    with manager.applied(specs):
        return logits(manager.model, ids, **kwargs)


def unit(seed: int = 0, width: int = tiny_models.D_MODEL) -> Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def specs_of(
    manager: AblationManager, layer: int, modes: Sequence[str] = ("zero", "mean")
) -> list[AblationSpec]:
    """Every site and mode that the layer offers, first and last part each."""
    here = manager.sites.layers[layer]
    specs = []
    for kind in here.sites:
        for mode in modes:
            if kind == "head":
                specs += [AblationSpec(kind, layer, heads=(h,), mode=mode) for h in (0, here.n_heads - 1)]
            elif kind == "kv_group":
                specs.append(AblationSpec(kind, layer, groups=(here.n_kv_heads - 1,), mode=mode))
            elif kind == "neuron":
                last = here.n_neurons - 1
                specs.append(AblationSpec(kind, layer, neurons=(0, last), mode=mode))
            elif kind in ("attn", "mlp"):
                specs.append(AblationSpec(kind, layer, mode=mode))
    return [*specs, AblationSpec("layer", layer)]


def zeroed_writer(model: Any, layer: int, pattern: Callable[[str], bool]) -> Any:
    """A copy of the model in which the layer's matching parameters are zero."""
    reference = copy.deepcopy(model)
    module = AblationManager(reference).sites.layers[layer].module
    matched = [parameter for name, parameter in module.named_parameters() if pattern(name)]
    assert matched
    with torch.no_grad():
        for parameter in matched:
            parameter.zero_()
    return reference


def mixer_output(mixer: Any) -> Any:
    """The projection that a mixer without attention heads ends with."""
    return next(getattr(mixer, name) for name in ("out_proj", "o_proj", "linear_out") if hasattr(mixer, name))


def head_columns(attention: Any, head: int) -> slice:
    """By the attention module's own head width, not by the row's."""
    names = ("v_head_dim", "head_dim", "head_size")
    width = next(getattr(attention, name) for name in names if hasattr(attention, name))
    return slice(head * width, (head + 1) * width)


def silence_columns(projection: Any, columns: slice | list[int], mean: Tensor | None) -> None:
    """Weights such that the projection ignores these inputs, or sees `mean` there whatever they are."""
    is_conv1d = hasattr(projection, "nx")
    with torch.no_grad():
        weight = projection.weight.T if is_conv1d else projection.weight  # [out, in]
        if mean is not None:
            offset = weight[:, columns] @ mean
            bias = torch.zeros(weight.shape[0]) if projection.bias is None else projection.bias
            projection.bias = nn.Parameter(bias + offset)
        weight[:, columns] = 0


def drop_last_per_layer_embedding(stack: Any, config: Any) -> None:
    width = config.num_hidden_layers * config.hidden_size_per_layer_input
    with torch.no_grad():
        packed, projection = stack.embed_tokens_per_layer, stack.per_layer_model_projection
        packed.weight = nn.Parameter(packed.weight[:, :width])
        projection.weight = nn.Parameter(projection.weight[:width])


@pytest.mark.parametrize("row", ROWS)
class TestEveryRow:
    def test_head_zero_is_zero_columns_and_head_mean_a_bias(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        subject.calibrate_means([IDS])
        for layer in subject.sites.layers:
            if layer.heads is None:
                continue
            for head in (0, layer.n_heads - 1):
                for mode in ("zero", "mean"):
                    reference = copy.deepcopy(subject.model)
                    other = AblationManager(reference).sites.layers[layer.index]
                    columns = head_columns(other.attention, head)
                    mean = subject.mean(MeanKey("head", layer.index)) if mode == "mean" else None
                    silence_columns(other.attention_output, columns, None if mean is None else mean[columns])
                    got = edited(subject, AblationSpec("head", layer.index, heads=(head,), mode=mode))
                    if mode == "zero":
                        assert torch.equal(got, logits(reference))
                    else:
                        torch.testing.assert_close(got, logits(reference), rtol=1e-4, atol=1e-5)
                    assert not torch.equal(got, logits(subject.model))

    def test_neuron_zero_is_zero_columns_and_neuron_mean_a_bias(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        subject.calibrate_means([IDS])
        for layer in subject.sites.layers:
            readers = [
                name for name, _ in layer.module.named_modules() if tiny_models.NEURON_READER.match(name)
            ]
            if row == "falcon_h1":  # its MLP scales what its projection gives
                readers = []
            assert ("neuron" in layer.sites) == bool(readers)
            for neurons in ([0], [3, layer.n_neurons - 1]) if readers else ():
                for mode in ("zero", "mean"):
                    reference = copy.deepcopy(subject.model)
                    other = AblationManager(reference).sites.layers[layer.index].module
                    (projection,) = (other.get_submodule(name) for name in readers)
                    mean = subject.mean(MeanKey("neuron", layer.index))[neurons] if mode == "mean" else None
                    silence_columns(projection, neurons, mean)
                    spec = AblationSpec("neuron", layer.index, neurons=tuple(neurons), mode=mode)
                    got = edited(subject, spec)
                    if mode == "zero":
                        assert torch.equal(got, logits(reference))
                    else:
                        torch.testing.assert_close(got, logits(reference), rtol=1e-4, atol=1e-5)
                    assert not torch.equal(got, logits(subject.model))

    def test_attn_and_mlp_zero_are_zero_projections(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        for layer in subject.sites.layers:
            if "attn" in layer.sites:
                output = next(
                    name
                    for name, module in layer.module.named_modules()
                    if module is (layer.attention_output or mixer_output(layer.attention))
                )
                reference = zeroed_writer(
                    subject.model, layer.index, lambda name, output=output: name.startswith(output + ".")
                )
                assert torch.equal(edited(subject, AblationSpec("attn", layer.index)), logits(reference))
            if "mlp" in layer.sites:  # with experts: the routed and the shared ones
                reference = zeroed_writer(
                    subject.model, layer.index, lambda name: MLP_WRITERS.search(name) is not None
                )
                assert torch.equal(edited(subject, AblationSpec("mlp", layer.index)), logits(reference))

    def test_kv_group_is_its_heads(self, row: str, manager: Callable[[str], AblationManager]) -> None:
        subject = manager(row)
        subject.calibrate_means([IDS])
        layer = subject.sites.layers[1]
        for group in range(layer.n_kv_heads):
            heads = tuple(layer.group_heads(group))
            for mode in ("zero", "mean"):
                got = edited(subject, AblationSpec("kv_group", 1, groups=(group,), mode=mode))
                assert torch.equal(got, edited(subject, AblationSpec("head", 1, heads=heads, mode=mode)))

    def test_layer_skip_is_the_model_with_the_layer_deleted(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        last = subject.sites.n_layers - 1
        # gemma4's late layers read the keys of earlier ones, zamba2's know their number: only the last can go
        deletable = [last] if subject.sites.layers[0].always_runs or row == "zamba2" else [0, 1, last]
        for index in deletable:
            reference = copy.deepcopy(subject.model)
            other = AblationManager(reference).sites
            layers = next(module for module in other.stack.children() if isinstance(module, nn.ModuleList))
            del layers[index]
            config = reference.config.get_text_config()
            if vars(config).get("layer_types"):
                config.layer_types = [*config.layer_types[:index], *config.layer_types[index + 1 :]]
            config.num_hidden_layers -= 1
            if hasattr(other.stack, "embed_tokens_per_layer"):  # packed by layer
                drop_last_per_layer_embedding(other.stack, config)
            assert torch.equal(edited(subject, AblationSpec("layer", index)), logits(reference))

    def test_a_mean_equal_to_the_activation_changes_nothing(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        one = IDS[:1, :1]  # one token: every activation is its own mean
        kinds = [
            (kind, layer.index)
            for layer in subject.sites.layers
            for kind in ("head", "attn", "neuron", "mlp")
        ]
        offered = [key for key in kinds if key[0] in subject.sites.layers[key[1]].sites]
        subject.calibrate_means([one], [MeanKey(*key) for key in offered])
        before = logits(subject.model, one)
        for layer in subject.sites.layers:
            for spec in specs_of(subject, layer.index, ("mean",)):
                if spec.kind != "layer":
                    assert torch.equal(edited(subject, spec, one), before)

    def test_joint_is_composition(self, row: str, manager: Callable[[str], AblationManager]) -> None:
        subject = manager(row)
        singles = [
            spec
            for layer, kind in ((0, "mlp"), (1, "layer"), (2, "attn"))
            for spec in specs_of(subject, layer, ("zero",))
            if spec.kind == kind
        ]
        joint = edited(subject, singles)
        assert torch.equal(joint, edited(subject, singles[::-1]))
        composed = copy.deepcopy(subject.model)
        if "mlp" in subject.sites.layers[0].sites:
            composed = zeroed_writer(composed, 0, lambda name: MLP_WRITERS.search(name) is not None)
        rest = [spec for spec in singles if spec.kind != "mlp"]
        assert torch.equal(joint, edited(AblationManager(composed), rest))

    def test_nothing_is_left_behind(self, row: str, manager: Callable[[str], AblationManager]) -> None:
        subject = manager(row)
        subject.calibrate_means([IDS])
        before = logits(subject.model)
        hooks = count_hooks(subject.model)
        for layer in (0, subject.sites.n_layers - 1):
            for spec in specs_of(subject, layer):
                edited(subject, spec)
        edited(subject, DirectionSpec("project_out", unit()))
        with pytest.raises(IndexError):  # no such token: the pass fails halfway
            edited(subject, specs_of(subject, 1)[-1], torch.tensor([[tiny_models.VOCAB]]))
        assert torch.equal(logits(subject.model), before)
        assert count_hooks(subject.model) == hooks
        assert all("forward" not in module.__dict__ for module in subject.model.modules())

    def test_project_out_of_all_writes_keeps_the_stream_orthogonal(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        if subject.sites.norm_on_stream:
            # the norms put the direction back; what is written has none of it
            taps = [tap for layer in subject.sites.layers for tap in layer.writes.values()]
        else:
            taps = [layer.stream for layer in subject.sites.layers]
        first, second = unit(0), unit(1)
        spec = [DirectionSpec("project_out", first), DirectionSpec("project_out", second)]
        seen = recorded(subject, spec, taps)
        assert len(seen) == len(taps)
        for tensor in seen.values():
            for vector in (first, second):
                assert (tensor.float() @ vector).abs().max() < 1e-4 * tensor.abs().max()

    def test_project_out_of_one_layer_keeps_the_component(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        layer = subject.sites.layers[1]
        if subject.sites.norm_on_stream:
            pytest.skip("the layer normalises the stream, so that its component is not kept")
        entry = Tap("entry", layer.module, "input")
        seen = recorded(subject, DirectionSpec("project_out", unit(), layers=(1,)), [entry, layer.stream])
        scale = getattr(layer.module, "layer_scalar", torch.ones(1))  # gemma4 scales the sum
        before, after = seen["entry"].float() @ unit(), seen[layer.path].float() @ unit()
        torch.testing.assert_close(after, before * scale, rtol=1e-4, atol=1e-4)

    def test_directions_at_the_stream(self, row: str, manager: Callable[[str], AblationManager]) -> None:
        subject = manager(row)
        layer = subject.sites.layers[1]
        plain = recorded(subject, [], [layer.stream])[layer.path]
        removed = recorded(
            subject, DirectionSpec("project_out", unit(), at="stream", layers=(1,)), [layer.stream]
        )[layer.path]
        assert (removed.float() @ unit()).abs().max() < 1e-5 * plain.abs().max()
        kept = unit(1) - (unit(1) @ unit()) * unit()
        torch.testing.assert_close(removed.float() @ kept, plain.float() @ kept, rtol=1e-4, atol=1e-5)
        added = recorded(
            subject, DirectionSpec("add", unit(), layers=(1,), coefficient=-2.0, norm=3.0), [layer.stream]
        )[layer.path]
        torch.testing.assert_close(added, plain - 6 * unit())

    def test_identity_edits_give_the_baselines_bits(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        before = logits(subject.model)
        assert torch.equal(edited(subject, DirectionSpec("project_out", unit(), coefficient=0.0)), before)
        assert torch.equal(edited(subject, []), before)

    def test_generation_with_a_cache_equals_generation_without(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        subject.calibrate_means([IDS])
        by_kind = {spec.kind: spec for spec in specs_of(subject, 1)}  # the last of each kind: mode mean
        by_kind.pop("layer")
        add = DirectionSpec("add", unit(), layers=(0,), norm=4.0, positions="not_first")
        conditions: list[Any] = [
            AblationSpec("layer", 0),
            [*map(by_kind.get, by_kind.keys() & {"head", "mlp"}), AblationSpec("layer", 2)],
            [*map(by_kind.get, by_kind.keys() & {"attn"}), DirectionSpec("project_out", unit(), layers=(1,))],
            [*map(by_kind.get, by_kind.keys() & {"kv_group"}), add],
        ]
        own, without = (generate(subject.model, use_cache) for use_cache in (True, False))
        atol = 1e-4 + 10 * float(
            (own - without).abs().max()
        )  # a recurrent state rounds otherwise than a scan
        assert atol < 0.02
        for specs in conditions:
            with subject.applied(specs):
                cached, plain = (generate(subject.model, use_cache) for use_cache in (True, False))
            torch.testing.assert_close(cached, plain, rtol=1e-3, atol=atol)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
    def test_half_precision(self, row: str, dtype: torch.dtype, tiny: Any) -> None:
        if dtype is torch.float16 and row not in ("llama", "gpt2", "falcon", "opt"):
            pytest.skip("float16: one row each of Linear, Conv1D, tuples and flat MLPs")
        subject = AblationManager(tiny(row, dtype))
        subject.calibrate_means([IDS])
        before = logits(subject.model)
        for spec in [*specs_of(subject, 1), DirectionSpec("project_out", unit())]:
            got = edited(subject, spec)
            assert got.dtype == before.dtype
            assert torch.isfinite(got).all()
            assert not torch.equal(got, before)
        assert torch.equal(logits(subject.model), before)


def recorded(manager: AblationManager, specs: Any, taps: Sequence[Tap]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    with manager.applied(specs), recording(taps, lambda tap, x: seen.__setitem__(tap.path, x.clone())):
        logits(manager.model)
    return seen


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def generate(model: Any, use_cache: bool, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    """Logits of four greedy steps  # [steps, batch, vocab]"""
    out = model.generate(
        ids,
        attention_mask=kwargs.pop("attention_mask", torch.ones_like(ids)),
        max_new_tokens=4,
        do_sample=False,
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_logits=True,
        **kwargs,
    )
    return torch.stack(out.logits)


class TestPositions:
    @pytest.mark.parametrize("row", ["llama", "opt", "gpt2", "falcon", "gemma4_text", "llava"])
    def test_the_first_token_is_left_alone(self, row: str, manager: Callable[[str], AblationManager]) -> None:
        subject = manager(row)
        subject.calibrate_means([IDS])
        before = logits(subject.model)
        for spec in specs_of(subject, 1):
            if spec.kind == "layer":
                continue
            elsewhere = dataclasses.replace(spec, positions="not_first")
            got = edited(subject, elsewhere)
            assert torch.equal(got[:, 0], before[:, 0])
            assert not torch.equal(got[:, 1], before[:, 1])
        got = edited(subject, DirectionSpec("project_out", unit(), positions="not_first"))
        assert torch.equal(got[:, 0], before[:, 0])
        assert not torch.equal(got[:, 1], before[:, 1])

    @pytest.mark.parametrize("row", ["llama", "opt", "gpt2"])
    def test_with_left_padding_it_is_the_first_real_token(
        self, row: str, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager(row)
        pad = 3
        padded = torch.cat([torch.zeros(1, pad, dtype=torch.long), IDS[:1]], dim=1)
        mask = (torch.arange(padded.shape[1]) >= pad)[None].long()
        spec = AblationSpec("mlp", 0, positions="not_first")
        with subject.applied(spec):
            alone = generate(subject.model, True, IDS[:1])
            with_padding = generate(subject.model, True, padded, attention_mask=mask)
        torch.testing.assert_close(with_padding, alone, rtol=1e-4, atol=1e-4)

    def test_a_mask_it_cannot_read_is_refused(self, manager: Callable[[str], AblationManager]) -> None:
        subject = manager("llama")
        mask = torch.ones(2, 1, IDS.shape[1], IDS.shape[1], dtype=torch.bool).tril()
        with pytest.raises(SparkablateError, match="mask of shape"):
            edited(subject, AblationSpec("mlp", 0, positions="not_first"), attention_mask=mask)


class TestMeans:
    def test_they_are_the_activations_means(self, manager: Callable[[str], AblationManager]) -> None:
        subject = manager("opt")
        batches = [IDS, tiny_models.tokens(3, 5, seed=2)]
        means = subject.calibrate_means(batches)
        for key in (
            MeanKey("head", 1),
            MeanKey("attn", 0),
            MeanKey("mlp", 2),
            MeanKey("mlp", 2, "not_first"),
        ):
            values = []
            for batch in batches:
                with torch.inference_mode():
                    states = subject.model(batch, output_hidden_states=True, use_cache=False).hidden_states
                    layer = subject.model.model.decoder.layers[key.layer]
                    values.append(
                        self.by_hand(layer, states[key.layer], key.kind)[:, key.positions != "all" :]
                    )
            expected = (
                torch.cat([value.reshape(-1, value.shape[-1]) for value in values]).double().mean(dim=0)
            )
            torch.testing.assert_close(means[key].double(), expected, rtol=1e-4, atol=1e-5)

    @staticmethod
    def by_hand(layer: Any, x: Tensor, kind: str) -> Tensor:
        """The activations of one OPT layer, computed from its input x [batch, pos, d_model]."""
        attention, n_heads = layer.self_attn, tiny_models.HEADS
        normed = layer.self_attn_layer_norm(x)
        q, k, v = (
            projection(normed).unflatten(-1, (n_heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        heads = mixed.transpose(1, 2).flatten(2)
        written = attention.out_proj(heads)
        hidden = layer.activation_fn(layer.fc1(layer.final_layer_norm(x + written)))
        return {"head": heads, "attn": written, "mlp": layer.fc2(hidden)}[kind]

    def test_without_them_mean_is_refused_before_anything_changes(
        self, manager: Callable[[str], AblationManager]
    ) -> None:
        subject = manager("llama")
        subject.set_means({MeanKey("mlp", 0): torch.zeros(tiny_models.D_MODEL)})
        edited(subject, AblationSpec("mlp", 0, mode="mean"))
        for spec in (
            AblationSpec("mlp", 1, mode="mean"),
            AblationSpec("mlp", 0, mode="mean", positions="not_first"),
        ):
            with pytest.raises(SparkablateError) as caught, subject.applied(spec):
                pass
            assert caught.value.code == "means_missing"
        with pytest.raises(SparkablateError, match=r"must be \[32\]"):
            subject.set_means({MeanKey("mlp", 0): torch.zeros(3)})

    def test_a_mean_of_zeros_is_zero(self, manager: Callable[[str], AblationManager]) -> None:
        subject = manager("llama")
        width = input_width(subject.sites.layers[1].attention_output)
        subject.set_means({MeanKey("head", 1): torch.zeros(width)})
        assert torch.equal(
            edited(subject, AblationSpec("head", 1, heads=(2,), mode="mean")),
            edited(subject, AblationSpec("head", 1, heads=(2,))),
        )

    def test_only_the_unedited_model_is_calibrated(self, manager: Callable[[str], AblationManager]) -> None:
        subject = manager("llama")
        with subject.applied(AblationSpec("mlp", 0)):
            logits(subject.model)
            for other in (subject, AblationManager(subject.model)):
                with pytest.raises(SparkablateError, match="unedited"):
                    other.calibrate_means([IDS])


class TestDirections:
    def test_equals_orthogonalised_weights(self, tiny: Any) -> None:
        model, vector = tiny("llama_bias"), unit()
        reference = copy.deepcopy(model).double()
        project = torch.eye(len(vector), dtype=torch.float64) - torch.outer(vector.double(), vector.double())
        with torch.no_grad():
            reference.model.embed_tokens.weight.copy_(reference.model.embed_tokens.weight @ project)
            for layer in reference.model.layers:
                for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    writer.weight.copy_(project @ writer.weight)
                    writer.bias.copy_(project @ writer.bias)
        got = edited(AblationManager(model), DirectionSpec("project_out", vector))
        torch.testing.assert_close(got.double(), logits(reference), rtol=1e-4, atol=1e-5)

    def test_a_tied_head_is_not_edited(self) -> None:
        tied = tiny_models.Tiny("llama", {**tiny_models.COMMON, "tie_word_embeddings": True})
        model = tiny_models.make(tied)
        hidden = recorded(
            AblationManager(model), DirectionSpec("project_out", unit()), [Tap("h", model.lm_head, "input")]
        )
        got = edited(AblationManager(model), DirectionSpec("project_out", unit()))
        with torch.inference_mode():
            assert torch.equal(got, nn.functional.linear(hidden["h"], model.model.embed_tokens.weight))

    def test_by_digest(self, manager: Callable[[str], AblationManager]) -> None:
        subject = manager("llama")
        spec = DirectionSpec("add", sha256="f" * 64, layers=(1,))
        with pytest.raises(SparkablateError, match="not given to the manager"):
            edited(subject, spec)
        subject.set_direction("f" * 64, unit(), norm=2.5)
        assert torch.equal(
            edited(subject, spec), edited(subject, DirectionSpec("add", unit(), layers=(1,), norm=2.5))
        )

    def test_of_another_width(self, manager: Callable[[str], AblationManager]) -> None:
        with pytest.raises(SparkablateError, match="has 8 entries; the model's width is 32"):
            edited(manager("llama"), DirectionSpec("project_out", unit(width=8)))


class TestSafety:
    def test_nan_does_not_survive_a_zero(self, tiny: Any) -> None:
        model = copy.deepcopy(tiny("llama"))
        with torch.no_grad():
            model.model.layers[1].self_attn.v_proj.weight[: tiny_models.D_HEAD] = math.nan
        assert logits(model).isnan().all()
        got = edited(AblationManager(model), AblationSpec("kv_group", 1, groups=(0,)))
        assert torch.isfinite(got).all()
        assert torch.equal(
            got, edited(AblationManager(tiny("llama")), AblationSpec("kv_group", 1, groups=(0,)))
        )

    def test_an_edit_that_is_never_reached_is_an_error(
        self, manager: Callable[[str], AblationManager], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = manager("llama")
        layer = subject.model.model.layers[1]
        monkeypatch.setitem(layer.__dict__, "forward", lambda hidden_states, **_: hidden_states)
        with pytest.raises(
            SparkablateError, match=r"never passed the tensor that L1\.mlp\.zero edits"
        ) as caught:
            edited(subject, AblationSpec("mlp", 1))
        assert caught.value.code == "hook_failed"

    def test_a_forward_that_someone_else_set_is_put_back(
        self, manager: Callable[[str], AblationManager], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = manager("llama")
        layer = subject.model.model.layers[1]
        theirs = layer.forward
        monkeypatch.setitem(layer.__dict__, "forward", theirs)  # as accelerate does
        before = logits(subject.model)
        assert not torch.equal(edited(subject, AblationSpec("layer", 1)), before)
        assert layer.__dict__["forward"] is theirs
        assert torch.equal(logits(subject.model), before)

    def test_a_mode_that_changes_the_shape_is_an_error(
        self, manager: Callable[[str], AblationManager], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sparkablate.edits import functions as interventions

        halved = interventions.Mode(lambda values, mean: values[..., ::2])
        monkeypatch.setitem(interventions.MODES, "zero", halved)  # type: ignore[arg-type]
        with pytest.raises(SparkablateError, match="returned"):
            edited(manager("llama"), AblationSpec("mlp", 0))
