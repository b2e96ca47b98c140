"""Memory of processes, measured here; of GPUs, with a small program in nvidia-smi's place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.usage import GIB, gpu_gib, own_gib, usage

NVIDIA_SMI = """#!/bin/sh
echo "$@" > "$(dirname "$0")/asked"
printf '1024\\n512\\n'
"""


def test_memory_is_that_of_the_process_and_its_children() -> None:
    before = own_gib()
    block = np.ones(GIB // 4 // 8)
    assert 0.24 < own_gib() - before < 0.35
    del block
    code = "import sys; block = b'x' * (1 << 28); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert own_gib() - before > 0.24
        child.communicate()


def test_gpus_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_gib("2,3") == 1.5
    assert "--id=2,3" in (tmp_path / "asked").read_text()
    assert gpu_gib("") is None
    program.write_text("#!/bin/sh\necho '[N/A]'; exit 3\n")
    assert gpu_gib("2,3") is None
    monkeypatch.setenv("PATH", "")
    assert gpu_gib("2,3") is None


def test_usage_names_this_process() -> None:
    found = usage()
    assert found.pid == os.getpid()
    assert found.memory_gib > 0
