"""Blocks of `applied`: what acts in them, whoever calls; how they nest and end; that nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import itertools
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from applied_cases import IDS, OTHERS, SPECS, edited, fresh, hooks, logits, prepared, unit, untouched
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, TextGenerationPipeline

import tiny_models
from sparkablate import AblationManager, AblationSpec, DirectionSpec
from sparkablate.errors import SparkablateError
from sparkablate.loading.open import load_model
from sparkablate.manager import MeanKey

A, B = AblationSpec("mlp", 1), AblationSpec("head", 0, heads=(2,))

pytestmark = pytest.mark.filterwarnings("error:.*(applied|cache that was filled):UserWarning")


class TestNesting:
    """`with A: with B` has the bits of `applied([A, B])`."""

    @pytest.mark.parametrize(("first", "second"), list(itertools.permutations(SPECS, 2))[::3])
    def test_two_blocks_are_one_or_refused_as_one(self, first: str, second: str, tiny: Any) -> None:
        manager = prepared(tiny("llama"))
        outer, inner = (
            SPECS[name] if isinstance(SPECS[name], list) else [SPECS[name]] for name in (first, second)
        )
        base = logits(manager.model)
        alone = edited(manager, outer)
        try:
            joint = edited(manager, [*outer, *inner])
        except SparkablateError as error:
            joint, refused = None, error.code
        with manager.applied(outer):
            if joint is None:
                with pytest.raises(SparkablateError) as caught, manager.applied(inner):
                    pass
                assert caught.value.code == refused == "conditions_overlap"
            else:
                with manager.applied(inner):
                    assert torch.equal(logits(manager.model), joint)
            assert torch.equal(logits(manager.model), alone)
        assert torch.equal(logits(manager.model), base)
        assert untouched(manager.model)

    @pytest.mark.parametrize("row", list(tiny_models.TINY))
    def test_on_every_row(self, row: str, tiny: Any) -> None:
        manager = AblationManager(tiny(row))
        specs: list[Any] = [AblationSpec("layer", 0), DirectionSpec("project_out", unit(), layers=(1,))]
        specs += [
            AblationSpec(kind, layer)
            for layer, kind in ((1, "mlp"), (2, "attn"))
            if kind in manager.sites.layers[layer].sites
        ]
        with contextlib.ExitStack() as stack:
            for spec in specs:
                stack.enter_context(manager.applied(spec))
            nested = logits(manager.model)
        assert torch.equal(nested, edited(manager, specs))
        assert untouched(manager.model)

    def test_blocks_end_in_any_order(self, tiny: Any) -> None:
        manager = prepared(tiny("llama"))
        vectors = [unit(seed) for seed in range(2)]
        specs: list[Any] = [
            B,
            SPECS["attn mean not_first"],
            AblationSpec("layer", 2),
            DirectionSpec("project_out", vectors[0], layers=(0, 1)),
            DirectionSpec("project_out", vectors[1], layers=(1,)),
        ]
        want = {
            left: edited(manager, [specs[number] for number in left])
            for size in range(len(specs) + 1)
            for left in itertools.combinations(range(len(specs)), size)
        }
        for order in list(itertools.permutations(range(len(specs))))[::7]:
            blocks = [manager.applied(spec) for spec in specs]
            left = list(range(len(specs)))
            for block in blocks:
                block.__enter__()
            for number in order:
                assert torch.equal(logits(manager.model), want[tuple(left)])
                blocks[number].__exit__(None, None, None)
                left.remove(number)
            assert torch.equal(logits(manager.model), want[()])
        assert untouched(manager.model)

    def test_projections_of_several_blocks_remove_their_span(self, tiny: Any) -> None:
        manager = AblationManager(tiny("llama"))
        vectors = [DirectionSpec("project_out", unit(seed)) for seed in range(3)]
        three, two = edited(manager, vectors), edited(manager, [vectors[0], vectors[2]])
        with manager.applied(vectors[0]), manager.applied(vectors[2]):
            with manager.applied(vectors[1]):
                assert torch.equal(logits(manager.model), three)
            assert torch.equal(logits(manager.model), two)

    def test_managers_of_one_model_act_together(self, tiny: Any) -> None:
        model = tiny("llama")
        first, second = prepared(model), AblationManager(model)
        second.calibrate_means([OTHERS[:, :4]])
        head = [AblationSpec("head", 1, heads=(h,), mode="mean") for h in (0, 1)]
        # The reference: each head's mean is its own manager's.
        mixed = AblationManager(model)
        means = [manager.mean(MeanKey("head", 1)) for manager in (first, second)]
        assert not torch.equal(*means)
        mixed.set_means(
            {MeanKey("head", 1): torch.cat([means[0][: tiny_models.D_HEAD], means[1][tiny_models.D_HEAD :]])}
        )
        want = edited(mixed, head)
        with first.applied(head[0]), second.applied(head[1]):
            assert torch.equal(logits(model), want)
        with first.applied(head[0]):
            logits(model)
            with pytest.raises(SparkablateError) as caught, second.applied(head[0]):
                pass
        assert caught.value.code == "conditions_overlap"

    def test_directions_by_digest_are_their_own_managers(self, tiny: Any) -> None:
        model = tiny("llama")
        first, second = AblationManager(model), AblationManager(model)
        first.set_direction("a" * 64, unit(0), norm=2.0)
        second.set_direction("b" * 64, unit(1), norm=3.0)
        want = edited(
            first,
            [
                DirectionSpec("add", unit(0), layers=(1,), norm=2.0, sha256="a" * 64),
                DirectionSpec("add", unit(1), layers=(1,), norm=3.0, sha256="b" * 64),
            ],
        )
        with (
            first.applied(DirectionSpec("add", sha256="a" * 64, layers=(1,))),
            second.applied(DirectionSpec("add", sha256="b" * 64, layers=(1,))),
        ):
            assert torch.equal(logits(model), want)

    def test_what_a_manager_is_given_later_leaves_an_open_block_alone(self, tiny: Any) -> None:
        manager = prepared(tiny("llama"))
        spec = SPECS["head mean"]
        want = edited(manager, spec)
        with manager.applied(spec):
            manager.set_means({key: mean + 1 for key, mean in manager._means.items()})
            with manager.applied(A):
                logits(manager.model)
            assert torch.equal(logits(manager.model), want)

    def test_the_same_block_again(self, tiny: Any) -> None:
        manager = AblationManager(tiny("llama"))
        block = manager.applied(spec for spec in (A, B))
        want = edited(manager, [A, B])
        for _ in range(2):
            with block:
                assert torch.equal(logits(manager.model), want)
                with pytest.raises(SparkablateError) as caught, block:
                    pass
                assert caught.value.code == "conditions_overlap"
        with pytest.raises(SparkablateError, match="not open"):
            block.__exit__(None, None, None)

        @manager.applied([A, B])
        def decorated() -> Tensor:
            return logits(manager.model)

        assert torch.equal(decorated(), want)
        assert torch.equal(decorated(), want)
        assert untouched(manager.model)

    def test_hooks_of_others_keep_their_place(self, tiny: Any) -> None:
        """What somebody's hook saw behind the outer block's edit it sees behind the union's."""
        manager = AblationManager(tiny("llama"))
        module = manager.sites.layers[0].attention_output
        seen: list[Tensor] = []
        with manager.applied(B):
            theirs = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
            with manager.applied(AblationSpec("head", 0, heads=(0,))):
                logits(manager.model)
            logits(manager.model)
            theirs.remove()
        width = tiny_models.D_HEAD
        assert [bool((x[..., :width] == 0).all()) for x in seen] == [True, False]
        assert all(bool((x[..., 2 * width : 3 * width] == 0).all()) for x in seen)


class TestLeaving:
    def test_generators_tasks_and_errors(self, tiny: Any) -> None:
        manager = AblationManager(tiny("llama"))
        base, want = logits(manager.model), edited(manager, A)

        def rows() -> Iterator[Tensor]:
            with manager.applied(A):
                for row in IDS:
                    yield logits(manager.model, row[None])

        walk = rows()
        next(walk)
        assert torch.equal(logits(manager.model), want)  # open while the generator waits
        walk.close()
        assert torch.equal(logits(manager.model), base)

        async def one(spec: AblationSpec, wait: float) -> None:
            with manager.applied(spec):
                await asyncio.sleep(wait)
                logits(manager.model)

        async def both() -> None:
            await asyncio.gather(one(A, 0.05), one(B, 0.0))

        asyncio.run(both())
        for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit):
            with contextlib.suppress(error), manager.applied(A), manager.applied(B):
                logits(manager.model)
                raise error
        assert torch.equal(logits(manager.model), base)
        assert untouched(manager.model)

    def test_a_refused_block_changes_nothing(self, tiny: Any) -> None:
        manager = AblationManager(tiny("llama"))
        refused: list[Any] = [
            AblationSpec("mlp", 9),
            AblationSpec("mlp", 1, mode="mean"),
            AblationSpec("mlp", 1, mode="patch"),
            DirectionSpec("add", sha256="f" * 64),
            DirectionSpec("add", torch.eye(8)[0]),
            [A, A],
        ]
        want = edited(manager, B)
        for specs in refused:
            with pytest.raises(SparkablateError), manager.applied(specs):
                pass
            with manager.applied(B):
                with pytest.raises(SparkablateError), manager.applied(specs):
                    pass
                assert torch.equal(logits(manager.model), want)
        assert untouched(manager.model)

    def test_a_pass_that_fails_leaves_the_next_one_right(self, tiny: Any) -> None:
        manager = AblationManager(tiny("llama"))
        for specs in ([A], [A, AblationSpec("attn", 1, positions="not_first")]):
            want = edited(manager, specs)
            with manager.applied(specs):
                with pytest.raises(IndexError):
                    logits(manager.model, torch.tensor([[tiny_models.VOCAB]]))
                assert torch.equal(logits(manager.model), want)

    def test_others_may_change_forward_meanwhile(self) -> None:
        model = fresh()
        layer = model.model.layers[1]
        base = logits(model)
        with AblationManager(model).applied(AblationSpec("layer", 1)):
            skipped = logits(model)
            ours = layer.forward
            layer.forward = lambda *args, **kwargs: ours(*args, **kwargs)  # as accelerate wraps it
            assert torch.equal(logits(model), skipped)
        assert torch.equal(logits(model), base)
        with AblationManager(model).applied(AblationSpec("layer", 2)):
            logits(model)
            del model.model.layers[2].forward
        del layer.forward
        assert torch.equal(logits(model), base)
        assert untouched(model)


class TestNothingInSilence:
    def test_a_block_in_which_the_model_never_ran_warns(self, tiny: Any) -> None:
        manager = AblationManager(tiny("llama"))
        for spec in SPECS["joint"][1:]:
            told = pytest.warns(UserWarning, match="no pass of this LlamaForCausalLM ran")
            with told as caught, manager.applied(spec):
                logits(tiny("gpt2"))  # another model
            assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ZeroDivisionError), manager.applied(A):
                raise ZeroDivisionError
            with manager.applied(A):
                manager.model.model.layers[1].mlp(
                    torch.zeros(1, 1, tiny_models.D_MODEL)
                )  # acts, without a pass
        with manager.applied(A):
            with manager.applied(B):
                logits(manager.model)
            with pytest.warns(UserWarning, match="no pass"), manager.applied(B):
                pass

    def test_warnings_come_every_time(self, tiny: Any) -> None:
        """Python shows a warning once a line; a loop over conditions is one line."""
        manager = AblationManager(tiny("llama"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(3):
                with manager.applied(A):
                    pass
        assert len(caught) == 3

    def test_hooks_that_others_take_off(self) -> None:
        model = fresh()
        manager = AblationManager(model)
        for clear in (
            lambda module: module._forward_hooks.clear(),
            lambda module: setattr(module, "_forward_hooks", type(module._forward_hooks)()),
        ):
            block = manager.applied(A)
            block.__enter__()
            logits(model)
            for module in model.modules():
                clear(module)
            logits(model)
            with pytest.raises(SparkablateError, match=r"hook at model\.layers\.1\.mlp was taken off"):
                block.__exit__(None, None, None)
            assert untouched(model)

    def test_a_module_that_is_put_in_its_place(self) -> None:
        model = fresh()
        manager = AblationManager(model)
        theirs = copy.deepcopy(model.model.layers[1].mlp)
        old = model.model.layers[1].mlp
        block = manager.applied(A)
        block.__enter__()
        logits(model)
        model.model.layers[1].mlp = theirs
        with pytest.raises(SparkablateError, match=r"never passed the tensor that L1\.mlp\.zero edits"):
            logits(model)
        with pytest.raises(SparkablateError, match=r"layers\.1\.mlp is another module than when"):
            block.__exit__(None, None, None)
        with pytest.raises(SparkablateError, match=r"layers\.1\.mlp is another module than when"):
            edited(manager, A)
        model.model.layers[1].mlp = nn.Sequential(old)  # still runs, but what it is in may add to it
        with pytest.raises(SparkablateError, match="another module"):
            edited(manager, A)
        model.model.layers[2] = copy.deepcopy(model.model.layers[2])
        with pytest.raises(SparkablateError, match=r"model\.layers\.2 is another module"):
            edited(manager, AblationSpec("layer", 2))

    def test_embeddings_given_from_outside(self, tiny: Any) -> None:
        """The embedding's write is edited, or its absence is told: also in the first of many passes."""
        manager = AblationManager(tiny("llama"))
        model, spec = manager.model, DirectionSpec("project_out", unit())
        want = edited(manager, spec)
        with torch.inference_mode():
            plain = model.get_input_embeddings()(IDS)
            with manager.applied(spec):
                inside = model.get_input_embeddings()(IDS)
                assert torch.equal(model(inputs_embeds=inside, use_cache=False).logits, want)
                with pytest.raises(SparkablateError, match="never passed the tensor"):
                    model(inputs_embeds=plain, use_cache=False)
                with pytest.raises(SparkablateError, match="never passed the tensor"):
                    model.generate(inputs_embeds=plain, max_new_tokens=3, do_sample=False)

    def test_no_model_no_spec(self, tiny: Any) -> None:
        for what in (None, "gpt2", 3, {}, GenerationConfig()):
            with pytest.raises(SparkablateError, match="must be a loaded model") as caught:
                AblationManager(what)  # type: ignore[arg-type]
            assert caught.value.code == "usage"
        with pytest.raises(SparkablateError) as caught:
            AblationManager(nn.Linear(2, 2))
        assert caught.value.code == "architecture_unsupported"
        manager = AblationManager(tiny("llama"))
        for specs in (None, {"kind": "mlp", "layer": 1}, 3, AblationSpec):
            with pytest.raises(
                SparkablateError, match="an AblationSpec or a DirectionSpec is wanted"
            ) as caught:
                manager.applied(specs)  # type: ignore[arg-type]
            assert caught.value.code == "config_invalid"


class TestCopies:
    @pytest.mark.parametrize("name", SPECS)
    def test_a_deepcopy_made_inside_has_the_edits_as_long_as_the_original(self, name: str) -> None:
        manager = prepared(fresh())
        base = logits(manager.model)
        with manager.applied(SPECS[name]):
            want = logits(manager.model)
            twin = copy.deepcopy(manager.model)
            assert torch.equal(logits(twin), want)
            with torch.no_grad():
                twin.lm_head.weight.zero_()  # its own weights
                for layer in twin.model.layers:
                    layer.mlp.down_proj.weight.zero_()
            assert torch.equal(logits(manager.model), want)
        assert torch.equal(logits(manager.model), base)
        assert untouched(manager.model)
        gone = copy.deepcopy(manager.model)
        with torch.no_grad():
            gone.lm_head.weight.zero_()
            for layer in gone.model.layers:
                layer.mlp.down_proj.weight.zero_()
        assert torch.equal(logits(twin), logits(gone))
        # A block on the original does not act on the copy, nor the other way round.
        with manager.applied(SPECS[name]):
            logits(manager.model)
            assert torch.equal(logits(twin), logits(gone))
        twin.load_state_dict(manager.model.state_dict())
        again = prepared(twin)
        assert torch.equal(edited(again, SPECS[name]), want)
        assert torch.equal(logits(twin), base)
        assert torch.equal(logits(copy.deepcopy(twin)), base)

    def test_a_skipped_layer_of_a_copy_runs_the_copys_weights_for_its_cache(self) -> None:
        manager = AblationManager(fresh())
        with manager.applied(AblationSpec("layer", 1)):
            twin = copy.deepcopy(manager.model)
            with torch.no_grad():
                twin.model.layers[1].self_attn.k_proj.weight.zero_()
                cache = DynamicCache(config=twin.config)
                twin(IDS, cache=cache)
            assert bool((cache.layers[1].keys == 0).all())
            logits(manager.model)

    def test_a_grown_union_is_not_silently_missed_by_a_copy(self) -> None:
        manager = AblationManager(fresh())
        with manager.applied(A):
            twin = copy.deepcopy(manager.model)
            with manager.applied(B):
                logits(manager.model)
                with pytest.raises(SparkablateError, match="never passed"):
                    logits(twin)

    @pytest.mark.parametrize("specs", ["joint", "attn mean not_first"])
    def test_what_is_saved_inside_is_the_plain_model_and_needs_nothing_of_ours(
        self, specs: str, tmp_path: Path
    ) -> None:
        manager = prepared(fresh())
        base = logits(manager.model)
        with manager.applied(SPECS[specs]):
            logits(manager.model)
            torch.save(manager.model, tmp_path / "model.pt")
            state = io.BytesIO()
            torch.save(manager.model.state_dict(), state)
            manager.model.save_pretrained(tmp_path / "saved")
        torch.save((IDS, base), tmp_path / "base.pt")
        script = (
            "import sys, torch\n"
            f"model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
            f"ids, base = torch.load({str(tmp_path / 'base.pt')!r})\n"
            "with torch.inference_mode():\n"
            "    torch.set_num_threads(1)\n"
            "    assert torch.equal(model(input_ids=ids, use_cache=False).logits, base)\n"
            "assert 'sparkablate' not in sys.modules\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert torch.equal(logits(type(manager.model).from_pretrained(tmp_path / "saved").eval()), base)
        assert torch.equal(logits(pickle.loads(pickle.dumps(manager.model))), base)


class TestCaches:
    PROMPT, REST = IDS[:, :6], IDS[:, 6:]

    def filled(self, model: Any) -> DynamicCache:
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(self.PROMPT, cache=cache)
        return cache

    def follow(self, model: Any, cache: Any, by_position: bool = False) -> Tensor:
        with torch.inference_mode():
            if by_position:
                return model(self.REST, None, None, cache).logits
            return model(self.REST, cache=cache).logits

    def test_filled_before_the_block_or_under_other_edits_warns(self, tiny: Any) -> None:
        manager = prepared(tiny("llama"))
        model = manager.model
        before = self.filled(model)
        for by_position in (False, True):
            cache = copy.deepcopy(before)
            with manager.applied(SPECS["joint"]), pytest.warns(UserWarning, match="cache that was filled"):
                self.follow(model, cache, by_position)
        with manager.applied(A):
            under_a = self.filled(model)
        with manager.applied(B), pytest.warns(UserWarning, match="cache that was filled"):
            self.follow(model, copy.deepcopy(under_a))
        with manager.applied(A), manager.applied(B), pytest.warns(UserWarning, match="cache that was filled"):
            self.follow(model, copy.deepcopy(under_a))
        with manager.applied(SPECS["head mean"]):
            under_mean = self.filled(model)
        manager.set_means({key: mean + 1 for key, mean in manager._means.items()})
        with manager.applied(SPECS["head mean"]), pytest.warns(UserWarning, match="cache that was filled"):
            self.follow(model, under_mean)

    def test_filled_under_the_same_edits_does_not(self, tiny: Any) -> None:
        manager = prepared(tiny("llama"))
        for name in ("joint", "attn mean not_first", "add"):
            with manager.applied(SPECS[name]):
                want = logits(manager.model)[:, 6:]
                cache = self.filled(manager.model)
                torch.testing.assert_close(
                    self.follow(manager.model, copy.deepcopy(cache)), want, rtol=1e-3, atol=1e-4
                )
            with manager.applied(SPECS[name]):  # a block a step
                torch.testing.assert_close(self.follow(manager.model, cache), want, rtol=1e-3, atol=1e-4)
                manager.model.generate(IDS, max_new_tokens=3, do_sample=False, num_beams=2)
                assert self.filled(manager.model).get_seq_length() == 6

    def test_a_mask_or_cache_given_by_position_is_seen(self, tiny: Any) -> None:
        """Where a sequence begins hangs on both."""
        manager = AblationManager(tiny("llama"))
        spec = AblationSpec("mlp", 1, positions="not_first")
        mask = torch.ones_like(IDS)
        mask[0, :3] = 0
        with torch.inference_mode(), manager.applied(spec):
            by_name = manager.model(input_ids=IDS, attention_mask=mask, use_cache=False).logits
            by_position = manager.model(IDS, mask, use_cache=False).logits
            assert torch.equal(by_name, by_position)
            cache = self.filled(manager.model)
            got = manager.model(self.REST, None, None, cache).logits
            torch.testing.assert_close(got, logits(manager.model)[:, 6:], rtol=1e-3, atol=1e-4)


class TestCallers:
    def test_threads_with_passes_of_their_own(self, tiny: Any) -> None:
        """Two padded batches at once: each thread's first tokens are its own."""
        manager = AblationManager(tiny("llama"))
        spec = DirectionSpec("add", unit(), layers=(0,), norm=5.0, positions="not_first")
        masks = [torch.ones_like(IDS) for _ in range(2)]
        masks[1][:, :5] = 0
        want = []
        for mask in masks:
            with manager.applied(spec):
                want.append(logits(manager.model, attention_mask=mask))
        got: list[list[Tensor]] = [[], []]
        barrier = threading.Barrier(2)

        def both_here(*_: Any) -> None:
            barrier.wait(60)

        wait = manager.model.model.layers[0].register_forward_pre_hook(both_here)

        def call(number: int) -> None:
            for _ in range(3):
                got[number].append(logits(manager.model, attention_mask=masks[number]))

        with manager.applied(spec):
            threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        wait.remove()
        for number in range(2):
            assert len(got[number]) == 3
            assert all(torch.equal(one, want[number]) for one in got[number])

    def test_a_functional_call_a_pipeline_and_other_dtypes(self, tmp_path: Path) -> None:
        directory = model_directory.save(tmp_path / "model")
        model, tokenizer = load_model(str(directory), dtype="float32", device="cpu")
        manager = AblationManager(model)
        base = logits(model)
        with manager.applied(A):
            want = logits(model)
            called = torch.func.functional_call(
                model, dict(model.named_parameters()), kwargs={"input_ids": IDS, "use_cache": False}
            )
            assert torch.equal(called.logits, want)
            pipeline = TextGenerationPipeline(model=model, tokenizer=tokenizer, device="cpu")
            inside = pipeline("The cat", max_new_tokens=6, do_sample=False, return_tensors=True)
            model.train()
            assert torch.equal(logits(model), want)
            model.eval()
            assert logits(model.to(torch.bfloat16)).dtype == torch.bfloat16
            model.to(torch.float32)
        assert logits(model).shape == base.shape
        assert untouched(model)
        assert inside

    def test_gradients_flow_through_the_edits_that_were_made_without_them(self, tiny: Any) -> None:
        manager = prepared(tiny("llama"))  # means and sources from inference mode
        for name, specs in SPECS.items():
            with torch.inference_mode():
                block = manager.applied(specs)
                block.__enter__()
            out = manager.model(input_ids=IDS, use_cache=False).logits
            (gradient,) = torch.autograd.grad(
                out.sum(), [manager.model.model.layers[2].mlp.up_proj.weight], allow_unused=True
            )
            block.__exit__(None, None, None)
            assert (gradient is None or not bool(gradient.any())) == (name == "joint"), name

    def test_gradient_checkpointing(self) -> None:
        model = fresh().train()
        manager = AblationManager(model)
        weight = model.model.layers[0].mlp.up_proj.weight

        def gradient(specs: Any) -> Tensor:
            with manager.applied(specs):
                loss = model(input_ids=IDS, use_cache=False).logits.square().sum()
                return torch.autograd.grad(loss, [weight])[0]

        want = gradient(A)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        assert torch.equal(gradient(A), want)
        # A layer that is run again knows no first tokens: told, not guessed.
        with pytest.raises(SparkablateError, match="gradient checkpointing"):
            gradient(AblationSpec("mlp", 1, positions="not_first"))


def test_specs_of_equal_columns_are_one_call_of_the_mode(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested heads of a layer reach a mode as one tensor, as in a list: a mode of one's own may mix them."""
    from sparkablate.edits import functions as interventions

    monkeypatch.setitem(
        interventions.MODES,  # type: ignore[arg-type]
        "zero",
        interventions.Mode(lambda values, given: values.flip(-1)),
    )
    manager = AblationManager(tiny("llama"))
    heads = [AblationSpec("head", 1, heads=(h,)) for h in (0, 3)]
    joint = edited(manager, heads)
    with manager.applied(heads[1]), manager.applied(heads[0]):
        assert torch.equal(logits(manager.model), joint)
    assert hooks(manager.model) == 0
