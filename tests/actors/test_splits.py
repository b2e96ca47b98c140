"""Splits as driver and reward actors read them, with training videos held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.splits import MIX, read_split
from configs.load import load
from data.holdout import HOLDOUT
from ray_jobs.driver.run import read_splits
from ray_jobs.train import splits_to_read
from tiny.world.write import write_split


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    for split, videos in (("train", 5), ("test", 1)):
        write_split(made, split, seed=1, num_videos=videos, expressions_per_video=2)
    return made


def videos_of(uids: list[str]) -> set[str]:
    return {uid.rpartition("/")[0] for uid in uids}


def test_a_run_reads_what_it_watches_before_it_starts_and_trains_on_the_rest(root: Path) -> None:
    """The hash of train00003 alone is below 0.1."""
    held = ["data.eval_split=holdout", "data.holdout=0.1", "train.eval_every=3"]
    cfg = load(["revseg_tiny", f"data.root={root}", *held])
    assert splits_to_read(cfg) == ["train", "test", HOLDOUT]
    samples = read_splits(cfg, splits_to_read(cfg))
    assert {each.uid for each in samples[HOLDOUT]} == {"train00003/0", "train00003/1"}
    assert videos_of([each.uid for each in samples["train"]]) == {
        "train00000",
        "train00001",
        "train00002",
        "train00004",
    }


def test_nothing_is_watched_without_evaluations(root: Path) -> None:
    cfg = load(["revseg_tiny", f"data.root={root}"])
    assert splits_to_read(cfg) == ["train", "test"]
    assert len(videos_of([each.uid for each in read_split(cfg, "train")])) == 5


def test_videos_of_a_mix_are_held_out_as_well(root: Path) -> None:
    sets = [f"{{format: mevis, root: {root}, split: train, name: {name}}}" for name in "ab"]
    held = ["data.eval_split=holdout", "data.holdout=0.5"]
    cfg = load(["revseg_tiny", f"data.root={root}", f"data.sets=[{', '.join(sets)}]", *held])
    watched = videos_of([each.uid for each in read_split(cfg, HOLDOUT)])
    trained = videos_of([each.uid for each in read_split(cfg, MIX)])
    assert watched
    assert trained
    assert not watched & trained
    assert len(watched | trained) == 10
