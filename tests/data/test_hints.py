"""Hints are written once and read by every later evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.types import Hints, Sample, Video
from data.hints import hints_file, with_hints, write_hints

VIDEO = Video("v", "v", ("0",), 4, 4)
SAMPLES = [Sample(f"v/{i}", VIDEO, f"query {i}", ()) for i in range(3)]
FOUND = {"v/0": Hints(target_frame=3, key_segment=(2, 6)), "v/1": None}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_hints(tmp_path / "new", "test", SAMPLES, FOUND)
    hinted = with_hints(SAMPLES, hints_file(tmp_path / "new", "test"))
    assert [sample.hints for sample in hinted] == [FOUND["v/0"], None, None]
    assert [replace(sample, hints=None) for sample in hinted] == SAMPLES
    assert hinted[0].bare.hints == FOUND["v/0"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["test.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '{"v/0": 1}', '{"v/0": {"query": "query 0"}}', "{", "[" * 10**6],
    ids=lambda text: text[:30],
)
def test_another_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(ValueError, match="test.json: not a file of hints .*delete it"):
        with_hints(SAMPLES, tmp_path / "test.json")


def test_another_data_set_and_no_file(tmp_path: Path) -> None:
    write_hints(tmp_path, "test", [replace(SAMPLES[0], query="the cat")], FOUND)
    with pytest.raises(ValueError, match="'v/0' is 'the cat' there and 'query 0' in the data"):
        with_hints(SAMPLES, hints_file(tmp_path, "test"))
    with pytest.raises(ValueError, match="valid.json: not a file of hints"):
        with_hints(SAMPLES, hints_file(tmp_path, "valid"))
