"""`--profile`: the word on the command line, and the file of a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.pulse import Span
from ray_jobs.driver.profile import with_profile, write_profile
from ray_jobs.train import train


@pytest.mark.parametrize("words", [["--profile", "5"], ["--profile=5"]])
def test_it_is_a_setting(words: list[str]) -> None:
    argv = with_profile(["revseg_tiny", *words, "seed=1"])
    assert argv == ["revseg_tiny", "record.profile=5", "seed=1"]


@pytest.mark.parametrize("words", [["--profile"], ["--profile", "seed=1"], ["--profile=0"]])
def test_a_missing_step_is_named(words: list[str]) -> None:
    with pytest.raises(ValueError, match="give the number of a step, such as --profile 5"):
        with_profile(["revseg_tiny", *words])


def test_a_step_behind_the_last_one_is_refused() -> None:
    with pytest.raises(ValueError, match="record.profile=9.*the run ends with step 3"):
        train(["revseg_tiny", "--profile", "9", "train.steps=3"])


def test_a_file_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    spans = {"driver": [Span("play", 1.0, 1.0)]}
    said = write_profile(tmp_path / "trace.json", spans)
    assert "profile of 1 processes, 1 spans" in said
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    (tmp_path / "folder").mkdir()
    assert "could not be written" in write_profile(tmp_path / "folder", spans)
