"""A manager for what people wrap around a model: found inside, and edited whoever is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from applied_cases import IDS, SPECS, edited, fresh, logits, prepared, untouched
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel

from sparkablate import AblationManager, AblationSpec
from sparkablate.errors import SparkablateError


class Engine(nn.Module):
    """As DeepSpeed's engine and others are: the model is their `module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


WRAPPERS: dict[str, Any] = {
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "a module": Engine,
    "an average": AveragedModel,
    "several": lambda model: Engine(torch.compile(nn.DataParallel(model), backend="eager")),
}


@pytest.fixture(scope="module")
def wanted() -> dict[str, Tensor]:
    manager = prepared(fresh())
    return {name: edited(manager, specs) for name, specs in SPECS.items()}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_edit_acts_through_a_wrapper(wrapper: str, wanted: dict[str, Tensor]) -> None:
    torch._dynamo.reset()
    wrapped = WRAPPERS[wrapper](fresh())
    manager = prepared(wrapped)
    base = logits(manager.model)
    for name, specs in SPECS.items():
        assert torch.equal(edited(manager, specs, wrapped), wanted[name]), name
        assert torch.equal(edited(manager, specs), wanted[name]), name
    torch.testing.assert_close(logits(wrapped), base)
    assert untouched(manager.model)


def test_several_devices_are_refused() -> None:
    """DataParallel takes the list at its word until it is called."""
    parallel = nn.DataParallel(fresh())
    parallel.device_ids = [0, 1]
    with pytest.raises(SparkablateError, match="2 devices") as caught:
        AblationManager(parallel)
    assert caught.value.code == "architecture_unsupported"


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_torchs_own_parallel_models(process_group: None, wanted: dict[str, Tensor]) -> None:
    parallel = nn.parallel.DistributedDataParallel(fresh())
    for name in ("head zero", "layer skip", "add"):
        assert torch.equal(edited(prepared(parallel), SPECS[name], parallel), wanted[name])
    sharded = fully_shard(fresh(), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(SparkablateError, match="shards") as caught:
        AblationManager(sharded)
    assert caught.value.code == "architecture_unsupported"


def lora(model: Any, **options: Any) -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    targets = ["o_proj", "down_proj", "q_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, **options)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return adapted


class TestPeft:
    def test_adapters_are_part_of_the_edited_model(self) -> None:
        """The reference is the model with the adapters merged into its weights."""
        adapted = lora(fresh())
        plain = lora(fresh()).merge_and_unload()
        manager, merged = prepared(adapted), prepared(plain)
        assert not torch.allclose(logits(plain), logits(fresh()), atol=1e-3)
        before = logits(adapted)
        for name, specs in SPECS.items():
            want = edited(merged, specs)
            for call in (adapted, adapted.get_base_model(), manager.model):
                torch.testing.assert_close(edited(manager, specs, call), want, rtol=1e-3, atol=1e-4, msg=name)
        with manager.applied(SPECS["mlp zero"]), adapted.disable_adapter():
            torch.testing.assert_close(logits(adapted), edited(prepared(fresh()), SPECS["mlp zero"]))
        assert torch.equal(logits(adapted), before)
        text = [
            model.generate(input_ids=IDS[:1], max_new_tokens=4, do_sample=False) for model in (adapted, plain)
        ]
        assert torch.equal(*text)

    def test_an_adapter_put_in_after_the_manager_was_made_is_told(self) -> None:
        """Hooks on the projection that the adapter has wrapped would leave the adapter's part unedited."""
        model = fresh()
        manager = AblationManager(model)
        lora(model)
        with pytest.raises(SparkablateError, match="is another module than when"):
            edited(manager, AblationSpec("head", 1, heads=(0,)))

    def test_prompt_learning_is_refused(self) -> None:
        peft = pytest.importorskip("peft", reason="peft is not installed")
        prompted = peft.get_peft_model(
            fresh(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        )
        with pytest.raises(SparkablateError, match="virtual tokens before the text") as caught:
            AblationManager(prompted)
        assert caught.value.code == "architecture_unsupported"
