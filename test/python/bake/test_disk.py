"""A disk that fills up in mid-bake, for real: root mounts a small one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import model_directory
import pytest

from sparkablate import AblationSpec, SparkablateError
from sparkablate.bake import bake, baking, live

#: What a bake of the tiny model writes: its weights, and the live side's logits [blocks, pos, vocab].
MODEL_BYTES = 220_000
LOGITS_BYTES = 2 * 32 * 258 * 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        if "root" in os.environ.get("REQUIRE", "").split(","):
            pytest.fail('REQUIRE names "root": only root may mount a small disk')
        pytest.skip("only root may mount a small disk")
    mounted = tmp_path / "disk"
    mounted.mkdir()
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.01])
def test_a_disk_that_fills_up_leaves_nothing(
    share: float, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model_directory.save(tmp_path / "model")
    size = int(share * (MODEL_BYTES + LOGITS_BYTES)) // 4096 * 4096
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", str(disk)], check=True)
    monkeypatch.setattr(live, "BLOCKS", 2)
    monkeypatch.setattr(live, "LENGTH", 32)
    # Another program takes the room after the check: the check is told that nothing is needed.
    monkeypatch.setattr(baking, "SPARE_BYTES", -(1 << 40))
    with pytest.raises(SparkablateError) as caught:
        bake(str(source), AblationSpec("mlp", 0), disk / "out", threads=1)
    assert caught.value.code == "disk_full", caught.value
    assert list(disk.iterdir()) == []
