"""The compiled operator of DeepSpeed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cluster.environment import torch_extensions_dir
from configs.load import REPOSITORY


def test_the_lock_of_a_killed_compiler_holds_nobody_up(tmp_path: Path) -> None:
    folder = tmp_path / "extensions"
    shutil.copytree(torch_extensions_dir(), folder)
    lock = folder / "deepspeed_shm_comm" / "lock"
    lock.touch()
    done = subprocess.run(
        [sys.executable, "-m", "cluster.build_ops"],
        cwd=REPOSITORY,
        env=os.environ | {"TORCH_EXTENSIONS_DIR": str(folder)},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"ready in {folder}\n"
    assert not lock.exists()
