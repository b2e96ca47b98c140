"""The prompts of training steps: one data set, mixes, resumes, and samples that are set aside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.splits import MIX, named_after_set, read_split, set_of, training_split
from configs.load import load
from configs.schema import Config
from core.types import Sample, Video
from data.mixing import MixedSet, Position, make_mix
from ray_jobs.driver.sampling import Draws, mix_rows, training_mix
from tests.data.fixtures import FIXTURES
from tiny.world.write import write_split


def samples_of(count: int) -> list[Sample]:
    video = Video("v", str(Path("nowhere")), ("0",), 4, 4)
    return [Sample(f"v/{number}", video, str(number), ()) for number in range(count)]


def draws_of(samples: Sequence[Sample], count: int, seed: int = 3) -> Draws:
    return Draws(make_mix([MixedSet("", samples)], seed), count)


def steps(draws: Draws, first: int, last: int) -> list[str]:
    """Return the uids of these steps, one after the other."""
    drawn = []
    for step in range(first, last + 1):
        drawn += [sample.uid for sample in draws.of_step(step)]
    return drawn


def test_epochs_of_one_set_are_reshuffled() -> None:
    samples = samples_of(10)
    order = steps(draws_of(samples, 4), 1, 10)
    epochs = [order[start : start + 10] for start in range(0, 40, 10)]
    for epoch in epochs:
        assert sorted(epoch) == [sample.uid for sample in samples]
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_one_set_is_seeded_by_run_and_epoch_alone() -> None:
    samples = samples_of(5)
    expected = []
    for epoch in range(3):
        for place in np.random.default_rng([9, epoch]).permutation(5):
            expected.append(samples[place].uid)
    assert steps(draws_of(samples, 15, seed=9), 1, 1) == expected


def test_a_run_goes_on_from_its_position() -> None:
    draws = draws_of(samples_of(10), 4)
    whole = steps(draws, 1, 8)
    middle = draws_of(samples_of(10), 4)
    steps(middle, 1, 5)
    resumed = Draws(make_mix([MixedSet("", samples_of(10))], 3), 4, 5, middle.after(5))
    assert steps(resumed, 6, 8) == whole[20:]
    # A checkpoint of an earlier release has no position.
    older = Draws(make_mix([MixedSet("", samples_of(10))], 3), 4, 5)
    assert steps(older, 6, 8) == whole[20:]


def test_the_position_of_a_step_stays_while_the_next_one_is_drawn_ahead() -> None:
    draws = draws_of(samples_of(10), 4)
    steps(draws, 1, 3)
    position = draws.after(3)
    steps(draws, 4, 5)
    assert draws.after(3) == position == Position({"": 12})


def test_a_sample_set_aside_is_drawn_no_more() -> None:
    draws = draws_of(samples_of(6), 3)
    first = steps(draws, 1, 1)[0]
    draws.set_aside(1, {first: "too long"})
    later = steps(draws, 2, 9)
    assert len(later) == 24
    assert first not in later
    assert draws.after(9).aside == {first: "too long"}


@pytest.fixture
def five(tmp_path: Path) -> Config:
    """Five data sets in their published layouts; two of them have videos of the same names."""
    write_split(tmp_path / "synthetic", "train", seed=1, num_videos=4, expressions_per_video=2)
    write_split(tmp_path / "second", "train", seed=2, num_videos=2, expressions_per_video=2)
    sets = [
        f"{{format: mevis, root: {tmp_path}/synthetic, split: train}}",
        f"{{format: mevis, root: {tmp_path}/second, split: train, name: second, repeats: 3}}",
    ]
    for format in ("revos", "ref_davis17", "lvvis"):
        written = FIXTURES[format](tmp_path / format)
        sets.append(f"{{format: {format}, root: {written.root}, split: {written.split}}}")
    return load(["revseg_tiny", f"data.sets=[{', '.join(sets)}]"])


def test_a_mix_is_read_set_by_set_with_uids_of_its_own(five: Config) -> None:
    assert training_split(five) == MIX
    samples = read_split(five, MIX)
    assert len({sample.uid for sample in samples}) == len(samples)
    names = [each.label for each in five.data.sets]
    assert list(dict.fromkeys(set_of(sample.uid) for sample in samples)) == names
    for sample in samples:
        assert sample.uid.startswith(f"{sample.video.uid}/")

    mix = training_mix(five, samples)
    sizes = [len(each.samples) for each in mix.sets]
    assert sizes == [7, 4, 3, 8, 1]
    sizes_D = np.array(sizes) * [1, 3, 1, 1, 1]
    assert mix.shares_D == pytest.approx(sizes_D / sizes_D.sum())
    assert [row[0] for row in mix_rows(mix, 100)[1:]] == names


def test_names_of_a_set_begin_the_uids_of_samples_and_videos() -> None:
    [sample] = named_after_set(samples_of(1), "mine")
    assert (sample.uid, sample.video.uid) == ("mine/v/0", "mine/v")


def test_a_set_without_samples_is_named(five: Config) -> None:
    samples = [sample for sample in read_split(five, MIX) if set_of(sample.uid) != "second"]
    with pytest.raises(ValueError, match=r"data.sets\[1\] \(second\): no sample is left"):
        training_mix(five, samples)


def test_an_error_in_the_files_of_a_set_names_the_set(five: Config) -> None:
    five.data.sets[2].split = "tarin"
    with pytest.raises(ValueError, match=r"data.sets\[2\] \(revos_tarin\): .*no such file"):
        read_split(five, MIX)


def test_keep_files_belong_to_one_set(five: Config, tmp_path: Path) -> None:
    samples = read_split(five, MIX)
    kept = samples[0].video.uid.removeprefix("mevis_train/")
    (tmp_path / "keep.json").write_text(f'{{"keep": ["{kept}"]}}')
    five.data.sets[0].keep_file = str(tmp_path / "keep.json")
    left = read_split(five, MIX)
    of_set = [sample.video.uid for sample in left if set_of(sample.uid) == "mevis_train"]
    assert set(of_set) == {f"mevis_train/{kept}"}
    assert len(left) == len(samples) - 7 + len(of_set)


def test_held_out_videos_of_a_mix_are_of_all_sets_from_the_first_on(five: Config) -> None:
    five.data.holdout = 0.5
    held_out = read_split(five, "holdout")
    assert {sample.uid for sample in held_out}.isdisjoint(
        sample.uid for sample in read_split(five, MIX)
    )
    sets = [set_of(sample.uid) for sample in held_out]
    assert sets != sorted(sets, key=[each.label for each in five.data.sets].index)
