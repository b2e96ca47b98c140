"""What of an episode's line goes to MLflow."""

from __future__ import annotations

import pytest

from ray_jobs.record.mlflow_traces import storable


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\0b", "a�b"),
        ("half \ud800", "half ?"),
        # Six characters that only look like an escape, and stay as they are.
        ("\\u0000", "\\u0000"),
        ("\\\0", "\\�"),
        ("漢字", "漢字"),
    ],
)
def test_texts_lose_only_what_databases_refuse(text: str, stored: str) -> None:
    line = {"turns": [{"text": text}], "facts": {text: 1}, "reward": 0.5, "parts": None}
    wanted = {"turns": [{"text": stored}], "facts": {stored: 1}, "reward": 0.5, "parts": None}
    assert storable(line) == wanted
