"""Imports and long lives without the garbage collector."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from core.collector import without_collector

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "code",
    [
        "import triton; from core.collector import spare_collector; spare_collector()",
        "from core.collector import without_collector as c; exec('with c(): import triton')",
    ],
)
def test_a_process_ends_without_a_word_of_leaks(code: str) -> None:
    # Triton comes with vLLM and looks for what was not freed.
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "leaked" not in done.stderr


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ImportError), without_collector():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
