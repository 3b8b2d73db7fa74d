"""Calls of the Python API as people get them wrong, and the sentence that each is answered with.

Read aloud: one sentence that names the argument, says what was given, and what to give instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_directory
import pytest
import torch
from transformers import BatchEncoding

import sparkablate
import tiny_models
from sparkablate import (
    AblationManager,
    AblationSpec,
    DirectionSpec,
    SparkablateError,
    bake,
    discover,
    load_direction,
    register_metric,
    register_site,
    save_direction,
)
from sparkablate.directions import find_directions
from sparkablate.edits.means import MeanKey
from sparkablate.model import load_model
from sparkablate.results import load

IDS = tiny_models.tokens()
WIDTH, VOCAB = tiny_models.D_MODEL, tiny_models.VOCAB
UNIT = torch.eye(WIDTH)[0]
MLP = AblationSpec("mlp", 1)
PROMPTS = [[1, 5, 6 + number] for number in range(9)]


class Scene:
    """A model, its manager, an empty directory, and a model's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = tiny_models.build("llama")
        self.manager = AblationManager(self.model)

    @property
    def saved(self) -> Path:
        return model_directory.save(self.path / "model")

    def inside(self, work: Callable[[], Any]) -> Any:
        with self.manager.applied(MLP):
            self.model(IDS)
            return work()

    def run(self, spec: Any, ids: Any = IDS) -> Any:
        with self.manager.applied(spec):
            return self.model(input_ids=ids, use_cache=False)

    def tokenizer(self) -> Any:
        return load_model(self.saved, dtype="float32", device="cpu")[1]


def filled(scene: Scene) -> Any:
    scene.manager.record_sources(IDS)
    return scene.manager


#: Call → how the answer begins: its code, then its sentence.
CALLS: dict[str, tuple[Callable[[Scene], Any], str]] = {
    'AblationManager("gpt2")': (
        lambda s: AblationManager("gpt2"),
        (
            "usage: model must be a loaded model (a torch.nn.Module), not the text 'gpt2'; load it"
            " first, with sparkablate.model.load_model"
        ),
    ),
    "AblationManager(None)": (
        lambda s: AblationManager(None),
        "usage: model must be a loaded model (a torch.nn.Module), not None",
    ),
    "AblationManager(s.tokenizer())": (
        lambda s: AblationManager(s.tokenizer()),
        ("usage: model must be a loaded model (a torch.nn.Module), not a value of type TokenizersBackend"),
    ),
    "AblationManager(torch.nn.Linear(4, 4))": (
        lambda s: AblationManager(torch.nn.Linear(4, 4)),
        "architecture_unsupported: Linear cannot be ablated: it has no transformers configuration.",
    ),
    "AblationManager(s.manager)": (
        lambda s: AblationManager(s.manager),
        (
            "usage: model must be a loaded model (a torch.nn.Module), not a value of type "
            "AblationManager; give its `model`"
        ),
    ),
    "AblationManager(type(s.model))": (
        lambda s: AblationManager(type(s.model)),
        "usage: model must be a loaded model (a torch.nn.Module), not the class LlamaForCausalLM",
    ),
    "AblationManager(s.model.model)": (
        lambda s: AblationManager(s.model.model),
        (
            "architecture_unsupported: LlamaModel cannot be ablated: its row names 'model', which "
            "LlamaModel does not have."
        ),
    ),
    'AblationManager(s.model, sites="llama")': (
        lambda s: AblationManager(s.model, sites="llama"),
        "usage: sites is a SiteMap, not 'llama'",
    ),
    'AblationSpec("heads", 1, heads=(0,))': (
        lambda s: AblationSpec("heads", 1, heads=(0,)),
        "config_invalid: kind 'heads' is none of head, kv_group, attn, neuron, mlp, layer",
    ),
    'AblationSpec("head", 1)': (
        lambda s: AblationSpec("head", 1),
        "config_invalid: kind 'head' needs heads, e.g. heads=(0,)",
    ),
    'AblationSpec("head", 1, heads=3)': (
        lambda s: AblationSpec("head", 1, heads=3),
        "config_invalid: heads are indices from 0, e.g. heads=(0,), not 3",
    ),
    'AblationSpec("head", 1, heads="3")': (
        lambda s: AblationSpec("head", 1, heads="3"),
        "config_invalid: heads are indices from 0, e.g. heads=(0,), not '3'",
    ),
    'AblationSpec("head", 1, heads=(0.5,))': (
        lambda s: AblationSpec("head", 1, heads=(0.5,)),
        "config_invalid: heads are indices from 0, e.g. heads=(0,), not (0.5,)",
    ),
    'AblationSpec("head", 1, heads=(0, 0))': (
        lambda s: AblationSpec("head", 1, heads=(0, 0)),
        "config_invalid: heads [0, 0] must be different and not negative",
    ),
    'AblationSpec("head", "1", heads=(0,))': (
        lambda s: AblationSpec("head", "1", heads=(0,)),
        "config_invalid: layer is an index from 0, not '1'",
    ),
    'AblationSpec("mlp", -1)': (
        lambda s: AblationSpec("mlp", -1),
        "config_invalid: layer -1 is negative; layers count from 0",
    ),
    'AblationSpec("mlp", 1.0)': (
        lambda s: AblationSpec("mlp", 1.0),
        "config_invalid: layer is an index from 0, not 1.0",
    ),
    'AblationSpec("mlp", [0, 1])': (
        lambda s: AblationSpec("mlp", [0, 1]),
        "config_invalid: layer is an index from 0, not [0, 1]",
    ),
    'AblationSpec("mlp", 1, heads=(0,))': (
        lambda s: AblationSpec("mlp", 1, heads=(0,)),
        "config_invalid: kind 'mlp' takes no heads",
    ),
    'AblationSpec("mlp", 1, mode="ablate")': (
        lambda s: AblationSpec("mlp", 1, mode="ablate"),
        "config_invalid: mode of kind 'mlp': 'ablate' is none of zero, mean, resample, patch",
    ),
    'AblationSpec("layer", 1, mode="patch")': (
        lambda s: AblationSpec("layer", 1, mode="patch"),
        "config_invalid: mode of kind 'layer': 'patch' is none of skip, mean, zero",
    ),
    'AblationSpec("layer", 1, positions="not_first")': (
        lambda s: AblationSpec("layer", 1, positions="not_first"),
        "config_invalid: a skipped layer has no positions: a layer is skipped at all of them",
    ),
    'AblationSpec("mlp", 1, positions="last")': (
        lambda s: AblationSpec("mlp", 1, positions="last"),
        "config_invalid: positions 'last' is none of all, not_first",
    ),
    'AblationSpec("direction", 1)': (
        lambda s: AblationSpec("direction", 1),
        "config_invalid: kind 'direction' is none of head, kv_group, attn, neuron, mlp, layer",
    ),
    'DirectionSpec("ablate", UNIT)': (
        lambda s: DirectionSpec("ablate", UNIT),
        "config_invalid: op 'ablate' is none of project_out, add",
    ),
    'DirectionSpec("project_out")': (
        lambda s: DirectionSpec("project_out"),
        ("config_invalid: a direction needs a vector, or the sha256 of one that the manager was given"),
    ),
    'DirectionSpec("project_out", UNIT * 2)': (
        lambda s: DirectionSpec("project_out", UNIT * 2),
        (
            "config_invalid: a direction is one vector of length 1, not shape [32] of norm 2; "
            "divide it by its norm and give that as `norm`"
        ),
    ),
    'DirectionSpec("project_out", torch.eye(WIDTH))': (
        lambda s: DirectionSpec("project_out", torch.eye(WIDTH)),
        (
            "config_invalid: a direction is one vector of length 1, not shape [32, 32] of norm "
            "5.657; divide it by its norm and give that as `norm`"
        ),
    ),
    'DirectionSpec("project_out", "it.safetensors")': (
        lambda s: DirectionSpec("project_out", "it.safetensors"),
        (
            "config_invalid: a direction's vector is a tensor, an array or a list of real numbers,"
            " not 'it.safetensors'"
        ),
    ),
    'DirectionSpec("add", UNIT, at="writes")': (
        lambda s: DirectionSpec("add", UNIT, at="writes"),
        "config_invalid: add exists at stream, not at 'writes'",
    ),
    'DirectionSpec("add", UNIT, layers=13)': (
        lambda s: DirectionSpec("add", UNIT, layers=13),
        "config_invalid: layers are indices from 0, e.g. layers=(0,), not 13",
    ),
    'DirectionSpec("add", UNIT, layers=())': (
        lambda s: DirectionSpec("add", UNIT, layers=()),
        "config_invalid: layers of a direction must be 'all', or one or more different indices",
    ),
    'DirectionSpec("add", UNIT, coefficient="2")': (
        lambda s: DirectionSpec("add", UNIT, coefficient="2"),
        "config_invalid: coefficient of a direction must be a finite number, not '2'",
    ),
    'DirectionSpec("add", UNIT, coefficient=float("nan"))': (
        lambda s: DirectionSpec("add", UNIT, coefficient=float("nan")),
        "config_invalid: coefficient of a direction must be a finite number, not nan",
    ),
    "s.manager.applied(None)": (lambda s: s.manager.applied(None), "config_invalid: an AblationSpec"),
    's.manager.applied({"kind": "mlp", "layer": 1})': (
        lambda s: s.manager.applied({"kind": "mlp", "layer": 1}),
        "config_invalid: an AblationSpec",
    ),
    "s.manager.applied([MLP, 3])": (lambda s: s.manager.applied([MLP, 3]), "config_invalid: an AblationSpec"),
    "s.manager.applied(AblationSpec)": (
        lambda s: s.manager.applied(AblationSpec),
        "config_invalid: an AblationSpec",
    ),
    's.run(AblationSpec("mlp", 3))': (
        lambda s: s.run(AblationSpec("mlp", 3)),
        "config_invalid: L3.mlp.zero: the model has layers 0 to 2",
    ),
    's.run(AblationSpec("head", 1, heads=(9,)))': (
        lambda s: s.run(AblationSpec("head", 1, heads=(9,))),
        "config_invalid: L1.head[9].zero: layer 1 has heads 0 to 3",
    ),
    "s.run([MLP, MLP])": (
        lambda s: s.run([MLP, MLP]),
        "conditions_overlap: L1.mlp.zero + L1.mlp.zero: mlp of layer 1 is edited twice",
    ),
    's.run([MLP, AblationSpec("layer", 1)])': (
        lambda s: s.run([MLP, AblationSpec("layer", 1)]),
        "conditions_overlap: L1.mlp.zero + L1.layer.skip: layer 1 is skipped and edited",
    ),
    's.run(AblationSpec("mlp", 1, mode="mean"))': (
        lambda s: s.run(AblationSpec("mlp", 1, mode="mean")),
        ("means_missing: the mean of ('mlp', 1, 'all') is not calibrated; call calibrate_means() first"),
    ),
    's.run(AblationSpec("mlp", 1, mode="patch"))': (
        lambda s: s.run(AblationSpec("mlp", 1, mode="patch")),
        ("input_missing: L1.mlp.patch has no donor: call record_sources(input_ids, mode='patch') first"),
    ),
    's.run(DirectionSpec("add", torch.eye(8)[0]))': (
        lambda s: s.run(DirectionSpec("add", torch.eye(8)[0])),
        "config_invalid: dir[66b7057e].add has 8 entries; the model's width is 32",
    ),
    's.run(DirectionSpec("add", sha256="ab" * 32))': (
        lambda s: s.run(DirectionSpec("add", sha256="ab" * 32)),
        "input_missing: dir[abababab].add: this direction was not given to the manager",
    ),
    'filled(s) and s.run(AblationSpec("mlp", 1, mode="patch"), IDS[:, :5])': (
        lambda s: filled(s) and s.run(AblationSpec("mlp", 1, mode="patch"), IDS[:, :5]),
        (
            "hook_failed: L1.mlp.patch: its donor is [2, 12, 32], this pass [2, 5, 32]; the first "
            "pass must have the donor's shape"
        ),
    ),
    "s.inside(lambda: s.manager.applied(MLP).__enter__())": (
        lambda s: s.inside(lambda: s.manager.applied(MLP).__enter__()),
        "conditions_overlap: L1.mlp.zero + L1.mlp.zero: mlp of layer 1 is edited twice",
    ),
    "s.inside(lambda: s.manager.calibrate_means(IDS))": (
        lambda s: s.inside(lambda: s.manager.calibrate_means(IDS)),
        "usage: calibrate_means() measures the unedited model: call it outside applied()",
    ),
    "s.inside(lambda: s.manager.record_sources(IDS))": (
        lambda s: s.inside(lambda: s.manager.record_sources(IDS)),
        "usage: record_sources() runs the unedited model: call it outside applied()",
    ),
    "s.manager.applied(MLP).__exit__(None, None, None)": (
        lambda s: s.manager.applied(MLP).__exit__(None, None, None),
        "usage: this applied() block is not open",
    ),
    's.manager.calibrate_means("The cat sat.")': (
        lambda s: s.manager.calibrate_means("The cat sat."),
        (
            "usage: batches must be token ids [batch, pos], not 'The cat sat.'; encode it first, "
            'with tokenizer(text, return_tensors="pt")'
        ),
    ),
    's.manager.calibrate_means(["The cat", "sat."])': (
        lambda s: s.manager.calibrate_means(["The cat", "sat."]),
        (
            "usage: batch 1 of batches must be token ids [batch, pos], not 'The cat'; encode it "
            'first, with tokenizer(text, return_tensors="pt")'
        ),
    ),
    "s.manager.calibrate_means(None)": (
        lambda s: s.manager.calibrate_means(None),
        "usage: batches must be token ids [batch, pos], not None",
    ),
    "s.manager.calibrate_means([])": (
        lambda s: s.manager.calibrate_means([]),
        "means_missing: the batches hold no tokens to average over for ('head', 0, 'all')",
    ),
    "s.manager.calibrate_means(IDS.float())": (
        lambda s: s.manager.calibrate_means(IDS.float()),
        (
            "usage: batch 1 of batches must be token ids [batch, pos], not a float32 tensor of "
            "shape [2, 12] on cpu"
        ),
    ),
    "s.manager.calibrate_means(IDS + VOCAB)": (
        lambda s: s.manager.calibrate_means(IDS + VOCAB),
        ("config_invalid: batch 1 of batches has ids from 103 to 189; the model's embedding has 96 rows"),
    ),
    "s.manager.calibrate_means([[[1, 2], [3]]])": (
        lambda s: s.manager.calibrate_means([[[1, 2], [3]]]),
        (
            "usage: batch 1 of batches holds rows of 1 to 2 ids: pad them with tokenizer(texts, "
            'padding=True, return_tensors="pt")'
        ),
    ),
    's.manager.calibrate_means({"tokens": IDS})': (
        lambda s: s.manager.calibrate_means({"tokens": IDS}),
        "usage: batches must be token ids [batch, pos], not a dict with the keys 'tokens'",
    ),
    's.manager.calibrate_means(BatchEncoding({"input_ids": IDS, "attention_mask": IDS[:1]}))': (
        lambda s: s.manager.calibrate_means(BatchEncoding({"input_ids": IDS, "attention_mask": IDS[:1]})),
        "usage: the attention_mask of batch 1 of batches has the shape [1, 12], its ids [2, 12]",
    ),
    's.manager.calibrate_means(IDS, keys=["mlp"])': (
        lambda s: s.manager.calibrate_means(IDS, keys=["mlp"]),
        "usage: a mean's key is MeanKey(kind, layer, positions), not 'mlp'",
    ),
    's.manager.calibrate_means(IDS, keys=[("direction", 1)])': (
        lambda s: s.manager.calibrate_means(IDS, keys=[("direction", 1)]),
        "config_invalid: kind of a mean 'direction' is none of head, attn, neuron, mlp, layer",
    ),
    's.manager.calibrate_means(IDS, keys=[MeanKey("mlp", 7)])': (
        lambda s: s.manager.calibrate_means(IDS, keys=[MeanKey("mlp", 7)]),
        "config_invalid: ('mlp', 7, 'all'): the model has 3 layers",
    ),
    's.manager.record_sources("The cat sat.")': (
        lambda s: s.manager.record_sources("The cat sat."),
        (
            "usage: input_ids must be token ids [batch, pos], not 'The cat sat.'; encode it first,"
            ' with tokenizer(text, return_tensors="pt")'
        ),
    ),
    's.manager.record_sources(IDS, mode="mean")': (
        lambda s: s.manager.record_sources(IDS, mode="mean"),
        "usage: mode 'mean' has no donor; use resample or patch",
    ),
    "s.manager.record_sources(IDS, attention_mask=IDS[:1])": (
        lambda s: s.manager.record_sources(IDS, attention_mask=IDS[:1]),
        ("usage: attention_mask must have input_ids' shape, not be an int64 tensor of shape [1, 12] on cpu"),
    ),
    "s.manager.set_means([UNIT])": (
        lambda s: s.manager.set_means([UNIT]),
        (
            "usage: the means are a mapping, as calibrate_means() gives it, not a list of 1, the "
            "first of type Tensor"
        ),
    ),
    's.manager.set_means({("mlp", 1): UNIT[:3]})': (
        lambda s: s.manager.set_means({("mlp", 1): UNIT[:3]}),
        "invalid_message: the mean of ('mlp', 1, 'all') has the shape [3], and must be [32]",
    ),
    's.manager.set_sources("patch", None)': (
        lambda s: s.manager.set_sources("patch", None),
        "usage: activations are a mapping, as record_sources() gives it, not None",
    ),
    's.manager.set_direction("it", UNIT * 2)': (
        lambda s: s.manager.set_direction("it", UNIT * 2),
        (
            "config_invalid: a direction is one vector of length 1, not shape [32] of norm 2; "
            "divide it by its norm and give that as `norm`"
        ),
    ),
    's.manager.mean(("mlp", 1))': (
        lambda s: s.manager.mean(("mlp", 1)),
        ("means_missing: the mean of ('mlp', 1, 'all') is not calibrated; call calibrate_means() first"),
    ),
    'discover("gpt2")': (
        lambda s: discover("gpt2"),
        (
            "usage: model must be a loaded model (a torch.nn.Module), not the text 'gpt2'; load it"
            " first, with sparkablate.model.load_model"
        ),
    ),
    "discover(None)": (
        lambda s: discover(None),
        "usage: model must be a loaded model (a torch.nn.Module), not None",
    ),
    "discover(torch.nn.Linear(4, 4))": (
        lambda s: discover(torch.nn.Linear(4, 4)),
        "architecture_unsupported: Linear cannot be ablated: it has no transformers configuration.",
    ),
    "load_model(3)": (
        lambda s: load_model(3),
        "model_not_found: model must be a Hugging Face id or a directory, not 3",
    ),
    'load_model("./nowhere")': (
        lambda s: load_model("./nowhere"),
        "model_not_found: model './nowhere': there is no directory",
    ),
    "load_model(s.path)": (lambda s: load_model(s.path), "model_not_found:"),
    'load_model(s.saved, dtype="fp16")': (
        lambda s: load_model(s.saved, dtype="fp16"),
        "config_invalid: dtype 'fp16': use",
    ),
    "load_model(s.saved, dtype=torch.int8)": (
        lambda s: load_model(s.saved, dtype=torch.int8),
        "config_invalid: dtype 'int8': use",
    ),
    'load_model(s.saved, device="gpu")': (
        lambda s: load_model(s.saved, device="gpu"),
        "device_unavailable: device 'gpu': use auto, cuda, mps or cpu",
    ),
    'load_model(s.saved, device="cuda:7")': (
        lambda s: load_model(s.saved, device="cuda:7"),
        "device_unavailable: device 'cuda:7': use auto, cuda, mps or cpu",
    ),
    'load_model(s.saved, device_map="balanced")': (
        lambda s: load_model(s.saved, device_map="balanced"),
        "config_invalid: device_map 'balanced': use auto, or leave it out",
    ),
    "load_model(s.saved, threads=0)": (
        lambda s: load_model(s.saved, threads=0),
        "config_invalid: threads must be a whole number from 1 to 1024, not 0",
    ),
    'load_model(s.saved, trust_remote_code="yes")': (
        lambda s: load_model(s.saved, trust_remote_code="yes"),
        "config_invalid: trust_remote_code must be True or False, not 'yes'",
    ),
    'load_model("builtin:gpt2")': (
        lambda s: load_model("builtin:gpt2"),
        ("model_not_found: builtin:gpt2: there is no such built-in model (known: builtin:smollm2-135m)"),
    ),
    'bake("./nowhere", MLP, s.path / "out")': (
        lambda s: bake("./nowhere", MLP, s.path / "out"),
        "model_not_found: model './nowhere': there is no directory",
    ),
    'bake(s.model, None, s.path / "out")': (
        lambda s: bake(s.model, None, s.path / "out"),
        "config_invalid: an AblationSpec",
    ),
    'bake(s.model, [], s.path / "out", dtype="source")': (
        lambda s: bake(s.model, [], s.path / "out", dtype="source"),
        "bake_refused: there is no intervention, so the result would be a copy",
    ),
    "bake(s.model, MLP, None)": (
        lambda s: bake(s.model, MLP, None),
        "usage: out must name a file or directory, not None",
    ),
    "bake(s.model, MLP, s.path)": (lambda s: bake(s.model, MLP, s.path), "usage:"),
    'bake(s.model, MLP, s.path / "out", dtype="bf16")': (
        lambda s: bake(s.model, MLP, s.path / "out", dtype="bf16"),
        "usage: dtype 'bf16': use",
    ),
    'bake(s.model, AblationSpec("mlp", 1, positions="not_first"), s.path / "out")': (
        lambda s: bake(s.model, AblationSpec("mlp", 1, positions="not_first"), s.path / "out"),
        (
            "bake_refused: L1.mlp.zero@not_first: weights cannot know a token's position; measure "
            "it with 'sparkablate run' instead"
        ),
    ),
    'bake(s.model, MLP, s.path / "out", prune_layers=True)': (
        lambda s: bake(s.model, MLP, s.path / "out", prune_layers=True),
        "bake_refused: prune_layers=True: no layer is skipped, so none can be pruned",
    ),
    'bake(s.model, DirectionSpec("add", UNIT), s.path / "out")': (
        lambda s: bake(s.model, DirectionSpec("add", UNIT), s.path / "out"),
        (
            "bake_refused: dir[0a5ce74b].add: adding to the stream would need a new bias in every "
            "layer; measure it with 'sparkablate run' instead"
        ),
    ),
    'bake(s.model, MLP, s.path / "out", source="nowhere")': (
        lambda s: bake(s.model, MLP, s.path / "out", source="nowhere"),
        "usage: source must be a model's directory, with its config.json, not 'nowhere'",
    ),
    'bake(s.model, MLP, s.path / "out", tokenizer="gpt2")': (
        lambda s: bake(s.model, MLP, s.path / "out", tokenizer="gpt2"),
        "usage: tokenizer must be a tokenizer, not 'gpt2'",
    ),
    'bake(s.model, MLP, s.path / "out", means=[UNIT])': (
        lambda s: bake(s.model, MLP, s.path / "out", means=[UNIT]),
        (
            "usage: the means are a mapping, as calibrate_means() gives it, not a list of 1, the "
            "first of type Tensor"
        ),
    ),
    'bake(s.model, MLP, s.path / "out", progress="yes")': (
        lambda s: bake(s.model, MLP, s.path / "out", progress="yes"),
        "usage: progress must be a function, not 'yes'",
    ),
    'bake(s.manager, MLP, s.path / "out")': (
        lambda s: bake(s.manager, MLP, s.path / "out"),
        (
            "usage: model must be a model, its directory or its Hugging Face id, not a value of "
            "type AblationManager"
        ),
    ),
    'bake(str(s.saved), MLP, s.path / "out", tokenizer=s)': (
        lambda s: bake(str(s.saved), MLP, s.path / "out", tokenizer=s),
        "usage: tokenizer goes with a model object; leave it out for '",
    ),
    'save_direction(s.path / "it", UNIT)': (
        lambda s: save_direction(s.path / "it", UNIT),
        "usage: path must end in .safetensors, as direction files do, not 'it'",
    ),
    "save_direction(None, UNIT)": (
        lambda s: save_direction(None, UNIT),
        "usage: path must name a file or directory, not None",
    ),
    'save_direction(s.path / "it.safetensors", "french")': (
        lambda s: save_direction(s.path / "it.safetensors", "french"),
        "config_invalid: vector must be a tensor, an array or a list of real numbers, not 'french'",
    ),
    'save_direction(s.path / "it.safetensors", UNIT * 0)': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT * 0),
        "config_invalid: the direction's length is 0.0: give finite values that are not all 0",
    ),
    'save_direction(s.path / "it.safetensors", torch.eye(4))': (
        lambda s: save_direction(s.path / "it.safetensors", torch.eye(4)),
        "config_invalid: the tensor has the shape [4, 4]; allowed: [d_model]",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, layer=-1)': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, layer=-1),
        "config_invalid: layer -1 is negative; layers count from 0",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, layer=9, model=s.model)': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, layer=9, model=s.model),
        "config_invalid: layer 9: the model has layers 0 to 2",
    ),
    'save_direction(s.path / "it.safetensors", UNIT[:1], model=s.model)': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT[:1], model=s.model),
        "config_invalid: the vector has 1 entries; the model's width is 32",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, norm=-1)': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, norm=-1),
        "config_invalid: norm must be above 0, not -1",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, position=0)': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, position=0),
        "config_invalid: position must be a whole number from 1 to 2147483648, not 0",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, model=s.manager)': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, model=s.manager),
        "config_invalid: model must be a text, not a value of type AblationManager",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, metadata={"seed": 1})': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, metadata={"seed": 1}),
        "config_invalid: metadata must be texts by name, not a dict with the keys 'seed'",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, metadata={"norm": "1"})': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, metadata={"norm": "1"}),
        "config_invalid: metadata 'norm' is written by save_direction() itself; use another name",
    ),
    'save_direction(s.path / "it.safetensors", UNIT, force="yes")': (
        lambda s: save_direction(s.path / "it.safetensors", UNIT, force="yes"),
        "usage: force must be True or False, not 'yes'",
    ),
    'save_direction(s.path / "no" / "it.safetensors", UNIT)': (
        lambda s: save_direction(s.path / "no" / "it.safetensors", UNIT),
        "usage:",
    ),
    "load_direction(3)": (lambda s: load_direction(3), "usage: path must name a file or directory, not 3"),
    'load_direction(s.path / "it.safetensors")': (
        lambda s: load_direction(s.path / "it.safetensors"),
        "input_missing:",
    ),
    "load_direction(s.path)": (lambda s: load_direction(s.path), "input_missing:"),
    "find_directions(s.model, PROMPTS, PROMPTS)": (
        lambda s: find_directions(s.model, PROMPTS, PROMPTS),
        "usage: manager must be an AblationManager(model), not a value of type LlamaForCausalLM",
    ),
    'find_directions(s.manager, ["The cat"] * 9, PROMPTS)': (
        lambda s: find_directions(s.manager, ["The cat"] * 9, PROMPTS),
        (
            "usage: positive prompt 1 must be token ids [batch, pos], not 'The cat'; encode it "
            'first, with tokenizer(text, return_tensors="pt")'
        ),
    ),
    "find_directions(s.manager, PROMPTS[:3], PROMPTS)": (
        lambda s: find_directions(s.manager, PROMPTS[:3], PROMPTS),
        "config_invalid: 3 positive prompts; allowed: 8 or more",
    ),
    "find_directions(s.manager, PROMPTS, PROMPTS)": (
        lambda s: find_directions(s.manager, PROMPTS, PROMPTS),
        ("config_invalid: negative prompt 1 has the same tokens as positive prompt 1: remove one of them"),
    ),
    "find_directions(s.manager, PROMPTS, None)": (
        lambda s: find_directions(s.manager, PROMPTS, None),
        "usage: negative prompts must be a list, not None",
    ),
    "find_directions(s.manager, PROMPTS, [p[::-1] for p in PROMPTS], held_out=2)": (
        lambda s: find_directions(s.manager, PROMPTS, [p[::-1] for p in PROMPTS], held_out=2),
        "config_invalid: held_out 2 must lie between 0 and 1",
    ),
    "find_directions(s.manager, PROMPTS, [p[::-1] for p in PROMPTS], end_positions=(9,))": (
        lambda s: find_directions(s.manager, PROMPTS, [p[::-1] for p in PROMPTS], end_positions=(9,)),
        "config_invalid: positive prompt 1 has 3 tokens, none at end position 9",
    ),
    'find_directions(s.manager, PROMPTS, [p[::-1] for p in PROMPTS], answers=("yes", "no"))': (
        lambda s: find_directions(s.manager, PROMPTS, [p[::-1] for p in PROMPTS], answers=("yes", "no")),
        "usage: answers are an Answers(positive, negative), not ('yes', 'no')",
    ),
    "load(None)": (
        lambda s: load(None),
        "usage: directory must be the path of a run directory, not of type NoneType",
    ),
    "load(s.path)": (lambda s: load(s.path), "input_missing:"),
    'load(s.path / "nowhere")': (lambda s: load(s.path / "nowhere"), "input_missing:"),
    "load(s.model)": (
        lambda s: load(s.model),
        "usage: directory must be the path of a run directory, not of type LlamaForCausalLM",
    ),
    'register_site("gate", "mlp.gate_proj")': (
        lambda s: register_site("gate", "mlp.gate_proj"),
        (
            "config_invalid: name must be your package's name, a dot and the site's name, e.g. "
            "\"mypackage.gate\", not 'gate'"
        ),
    ),
    'register_site("my.gate", ["mlp"])': (
        lambda s: register_site("my.gate", ["mlp"]),
        "config_invalid: path leads from a layer to a module, e.g. \"mlp.gate_proj\", not ['mlp']",
    ),
    'register_site("my.gate", "mlp.gate_proj", side="out")': (
        lambda s: register_site("my.gate", "mlp.gate_proj", side="out"),
        "config_invalid: side 'out' is none of input, output",
    ),
    'register_metric("my.entropy", None)': (
        lambda s: register_metric("my.entropy", None),
        "usage: function must be a function of Rows, not None",
    ),
    'register_metric("entropy", len)': (
        lambda s: register_metric("entropy", len),
        (
            "config_invalid: name must be your package's name, a dot and the metric's name, e.g. "
            "\"mypackage.entropy\", not 'entropy'"
        ),
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_is_answered_in_a_sentence(call: str, tmp_path: Path) -> None:
    work, words = CALLS[call]
    with pytest.raises(SparkablateError) as caught:
        work(Scene(tmp_path))
    said = f"{caught.value.code}: {caught.value}"
    assert said.startswith(words), said
    first = said.split("\n")[0]
    assert len(first) < 400
    # What nobody can type in Python.
    assert " --" not in first
    assert "model." not in first.replace("sparkablate.model.", "")


def test_every_public_name_is_called_wrongly() -> None:
    called = " ".join(CALLS)
    assert len(CALLS) >= 60
    callables = [name for name in dir(sparkablate) if callable(getattr(sparkablate, name))]
    # test/python/study/test_sweep_calls.py and test/contract/condition-ids.json have theirs.
    elsewhere = {"SparkablateError", "sweep", "Results", "parse_condition", "Condition"}
    assert not [name for name in callables if f"{name}(" not in called and name not in elsewhere]
