"""`applied` and torch.compile: compiled code gives the bits of the plain edited pass; afterwards its own."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from applied_cases import IDS, SPECS, edited, fresh, logits, prepared, untouched
from torch import Tensor

from sparkablate import AblationManager, AblationSpec
from sparkablate.errors import SparkablateError
from sparkablate.manager import MeanKey

MLP = AblationSpec("mlp", 1)


def layers_in_place(model: Any, backend: str) -> Any:
    for layer in model.model.layers:
        layer.compile(backend=backend)
    return model


def layers_wrapped(model: Any, backend: str) -> Any:
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = torch.compile(layer, backend=backend)
    return model


def in_place(model: Any, backend: str) -> Any:
    model.compile(backend=backend)
    return model


def its_forward(model: Any, backend: str) -> Any:
    model.forward = torch.compile(model.forward, backend=backend)
    return model


def one_projection(model: Any, backend: str) -> Any:
    layer = model.model.layers[1]
    layer.mlp = torch.compile(layer.mlp, backend=backend)
    layer.self_attn.o_proj = torch.compile(layer.self_attn.o_proj, backend=backend)
    return model


def caller(model: Any, backend: str) -> Any:
    def call(**kwargs: Any) -> Any:
        return model(**kwargs)

    return torch.compile(call, backend=backend)


#: How people compile: (model, backend) → what is called.
WAYS: dict[str, Callable[[Any, str], Any]] = {
    "torch.compile(model)": lambda model, backend: torch.compile(model, backend=backend),
    "model.compile()": in_place,
    "model.forward": its_forward,
    "layer.compile()": layers_in_place,
    "torch.compile(layer)": layers_wrapped,
    "a part": one_projection,
    "the caller": caller,
}


@pytest.fixture(autouse=True)
def _forgotten() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def wanted() -> dict[str, Tensor]:
    """The plain model's edited logits."""
    manager = prepared(fresh())
    return {name: edited(manager, specs) for name, specs in SPECS.items()}


@pytest.mark.parametrize("way", WAYS)
def test_every_edit_acts_in_compiled_code(way: str, wanted: dict[str, Tensor]) -> None:
    model = fresh()
    base = logits(model)
    called = WAYS[way](model, "eager")
    compiled = logits(called)  # makes the compiled code, which knows no hooks
    frames = torch._dynamo.utils.counters["frames"]["total"]
    assert frames > 0
    torch.testing.assert_close(compiled, base)
    given = called if isinstance(called, torch.nn.Module) else model
    manager = prepared(given)
    for name, specs in SPECS.items():
        got = edited(manager, specs, called)
        assert torch.equal(got, wanted[name]), name
        assert not torch.allclose(got, base, atol=1e-5), name
        assert torch.equal(logits(called), compiled), name
    assert torch._dynamo.utils.counters["frames"]["total"] == frames  # and still by the code made first


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_code_that_inductor_made_is_edited(wanted: dict[str, Tensor]) -> None:
    """One layer through the default backend: other kernels than the plain pass's, so other bits outside."""
    model = fresh()
    base = logits(model)
    model.model.layers[1].mlp = torch.compile(model.model.layers[1].mlp)
    compiled = logits(model)
    torch.testing.assert_close(compiled, base)
    manager = prepared(model)
    for name in ("mlp zero", "attn mean not_first", "layer skip", "joint"):
        assert torch.equal(edited(manager, SPECS[name]), wanted[name]), name
        assert torch.equal(logits(model), compiled), name


@pytest.mark.parametrize("way", ["layer.compile()", "the caller"])
def test_what_is_compiled_and_first_called_inside_is_unedited_afterwards(
    way: str, wanted: dict[str, Tensor]
) -> None:
    model = fresh()
    base = logits(model)
    manager = prepared(model)
    with manager.applied(SPECS["joint"]):
        called = WAYS[way](model, "eager")
        assert torch.equal(logits(called), wanted["joint"])
    torch.testing.assert_close(logits(called), base)
    assert torch.equal(edited(prepared(model), SPECS["joint"], called), wanted["joint"])


def test_generation_by_compiled_code(wanted: dict[str, Tensor]) -> None:
    """A static cache makes `generate` compile its decoding steps by itself."""
    model = fresh()

    def generated(**more: Any) -> Any:
        return model.generate(
            IDS[:1], max_new_tokens=2, do_sample=False, attention_mask=torch.ones_like(IDS[:1]), **more
        )

    manager = prepared(model)
    with manager.applied(SPECS["mlp zero"]):
        want = generated()
    model.compile(backend="eager")
    plain = generated()
    with manager.applied(SPECS["mlp zero"]):
        assert torch.equal(generated(), want)
    assert torch.equal(generated(), plain)


def test_means_and_sources_of_a_compiled_model_are_the_plain_ones() -> None:
    plain = prepared(fresh())
    model = fresh()
    for way in (in_place, layers_in_place):
        way(model, "eager")
    logits(model)
    compiled = prepared(model)
    for key in (MeanKey("head", 1), MeanKey("mlp", 2, "not_first")):
        assert torch.equal(compiled.mean(key), plain.mean(key))
    for key, source in plain._sources["patch"].items():
        assert torch.equal(compiled._sources["patch"][key], source)


def stance() -> str:
    return torch._dynamo.eval_frame._stance.stance


class TestStance:
    def test_is_counted_over_blocks_models_and_threads(self) -> None:
        managers = [AblationManager(fresh()), AblationManager(fresh("gpt2"))]
        entered, leave = threading.Event(), threading.Event()

        def elsewhere() -> None:
            with managers[1].applied(MLP):
                logits(managers[1].model)
                entered.set()
                assert leave.wait(60)

        thread = threading.Thread(target=elsewhere)
        assert stance() == "default"
        with managers[0].applied(MLP):
            logits(managers[0].model)
            thread.start()
            assert entered.wait(60)
            with managers[0].applied(AblationSpec("mlp", 2)):
                logits(managers[0].model)
            assert stance() == "force_eager"
        assert stance() == "force_eager"  # the other thread's block is open
        leave.set()
        thread.join(60)
        assert stance() == "default"

    def test_that_was_in_force_comes_back(self) -> None:
        manager = AblationManager(fresh())
        with torch.compiler.set_stance("fail_on_recompile"):
            with contextlib.suppress(ZeroDivisionError), manager.applied(MLP):
                assert stance() == "force_eager"
                raise ZeroDivisionError
            assert stance() == "fail_on_recompile"
            with pytest.raises(SparkablateError), manager.applied(AblationSpec("mlp", 99)):
                pass
            assert stance() == "fail_on_recompile"
        assert stance() == "default"

    def test_that_somebody_sets_inside_is_theirs_and_is_told(self) -> None:
        manager = AblationManager(fresh())
        block = manager.applied(MLP)
        block.__enter__()
        logits(manager.model)
        torch.compiler.set_stance("eager_on_recompile")
        with pytest.warns(UserWarning, match="set_stance was called inside"):
            block.__exit__(None, None, None)
        assert stance() == "eager_on_recompile"
        torch.compiler.set_stance("default")

    def test_other_threads_run_compiled_code_edited(self, wanted: dict[str, Tensor]) -> None:
        model = fresh()
        called = torch.compile(model, backend="eager")
        compiled = logits(called)
        manager = prepared(model)
        got: list[Tensor] = []
        for specs in (SPECS["attn mean not_first"], SPECS["layer skip"]):
            with manager.applied(specs):
                threads = [threading.Thread(target=lambda: got.append(logits(called))) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
        names = ["attn mean not_first"] * 2 + ["layer skip"] * 2
        assert len(got) == 4
        assert all(torch.equal(one, wanted[name]) for one, name in zip(got, names, strict=True))
        assert torch.equal(logits(called), compiled)


def test_a_block_inside_compiled_code_is_refused_or_right() -> None:
    model = fresh()
    manager = AblationManager(model)
    want = edited(manager, MLP)
    base = logits(model)

    def opens(ids: Tensor) -> Tensor:
        with manager.applied(MLP):
            return model(input_ids=ids, use_cache=False).logits

    with torch.inference_mode(), pytest.raises(SparkablateError, match="from inside compiled code") as caught:
        torch.compile(opens, backend="eager")(IDS)
    assert caught.value.code == "usage"
    assert untouched(model)
    assert stance() == "default"
    apart = torch.compiler.disable(opens)  # as the refusal says
    with torch.inference_mode():
        assert torch.equal(torch.compile(lambda ids: apart(ids).clone(), backend="eager")(IDS), want)
    assert stance() == "default"
    assert torch.equal(logits(model), base)


def test_an_exported_copy_is_out_of_reach_and_that_is_told() -> None:
    model = fresh().requires_grad_(False)
    base = logits(model)
    with torch.no_grad():
        traced = torch.jit.trace(
            lambda ids: model(input_ids=ids, use_cache=False).logits, IDS, check_trace=False
        )
    manager = AblationManager(model)
    with pytest.warns(UserWarning, match="no pass of this LlamaForCausalLM ran"), manager.applied(MLP):
        torch.testing.assert_close(traced(IDS), base)
