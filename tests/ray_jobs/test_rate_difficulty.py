"""The rating job: retries of a scripted rater, a kill, the generator, and a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import ray

from actors.rollout import Played
from configs.load import load as load_config
from core.difficulty import ASPECTS, difficulty
from core.types import Answer, End, Episode, Sample, Video
from data.difficulty import with_ratings
from data.load import load_samples, video_objects
from ray_jobs.driver.run import prepare_data
from ray_jobs.rate_difficulty import by_model, main, rate, sets_to_rate
from ray_jobs.record.journal import Journal
from tiny.world.difficulty import true_ratings
from tiny.world.write import write_split

VIDEO = Video("v", "nowhere", ("0",), 8, 8)
SAMPLES = [Sample(f"v/{i}", VIDEO, f"thing {i}", ()) for i in range(4)]
FIVE = dict(zip(ASPECTS, (1, 2, 3, 4, 5), strict=True))


class Script:
    """A rater with answers by sample and attempt; None is a failed episode, an error a kill."""

    def __init__(self, **ratings: list) -> None:
        self.ratings = ratings
        self.asked = list[tuple[int, list[str]]]()

    def __call__(
        self, samples: Sequence[Sample], attempt: int
    ) -> Iterator[tuple[Sample, dict[str, int]]]:
        self.asked.append((attempt, [s.uid for s in samples]))
        # A rater answers in any order.
        for sample in reversed(samples):
            found = self.ratings[f"v{sample.uid[2:]}"][attempt - 1]
            if isinstance(found, Exception):
                raise found
            if found is not None:
                yield sample, found


def test_unreadable_answers_are_asked_again_and_the_fullest_counts(tmp_path: Path) -> None:
    part = {"scene_complexity": 9}
    two = {"scene_complexity": 8, "motion_complexity": 8}
    script = Script(v0=[FIVE], v1=[part, FIVE], v2=[two, part, {}], v3=[None])
    with Journal.open(tmp_path / "j", "x") as journal:
        rate(SAMPLES, script, 3, journal)
        assert script.asked == [
            (1, ["v/0", "v/1", "v/2", "v/3"]),
            (2, ["v/2", "v/1"]),
            (3, ["v/2"]),
        ]
        assert journal.done == {
            "v/0": {"query": "thing 0", "ratings": FIVE, "attempts": 1},
            "v/1": {"query": "thing 1", "ratings": FIVE, "attempts": 2},
            "v/2": {"query": "thing 2", "ratings": two, "attempts": 3},
        }


def test_a_killed_job_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Journal.open(tmp_path / "j", "x") as journal:

        def kill(
            samples: Sequence[Sample], attempt: int
        ) -> Iterator[tuple[Sample, dict[str, int]]]:
            yield samples[2], FIVE
            raise KeyboardInterrupt

        rate(SAMPLES, kill, 3, journal)
    script = Script(v0=[FIVE], v1=[FIVE], v3=[FIVE])
    with Journal.open(tmp_path / "j", "x") as journal:
        rate(SAMPLES, script, 3, journal)
    assert script.asked == [(1, ["v/0", "v/1", "v/3"])]
    assert set(journal.done) == {s.uid for s in SAMPLES}


def test_the_generator_rates_a_data_set_and_training_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "synthetic"
    for split, videos in (("train", 6), ("valid", 2), ("test", 2), ("mp4", 1)):
        write_split(root, split, 1, videos, 2)
    main(["revseg_tiny", f"data.root={root}", "difficulty.rater=generator"])
    folder = root / "difficulty" / "generator_prompt1"
    assert sorted(p.name for p in folder.iterdir()) == ["test.json", "train.json", "valid.json"]
    content = json.loads((folder / "train.json").read_text())
    assert (content["rater"], content["prompt"]) == ("generator", 1)
    objects = video_objects("mevis", str(root), "train")
    for sample in with_ratings(load_samples("mevis", str(root), "train"), str(folder), "train"):
        truth = difficulty(true_ratings(sample, len(objects[sample.video.uid])))
        assert sample.notes.ratings is not None
        assert difficulty(sample.notes.ratings) == truth
    assert "mean D" in capsys.readouterr().out


def test_a_run_on_synthetic_data_makes_the_same_ratings_itself(tmp_path: Path) -> None:
    root = tmp_path / "synthetic"
    made = tmp_path / "made"
    for split, videos in (("train", 6), ("valid", 2), ("test", 2), ("mp4", 1)):
        write_split(root, split, 1, videos, 2)
    settings = [f"data.root={root}", "difficulty.rater=generator", "data.no_target=keep"]
    cfg = load_config(["revseg_tiny", *settings, f"difficulty.folder={made}"])
    prepare_data(cfg)
    main(["revseg_tiny", *settings])
    for split in ("train", "valid", "test"):
        by_job = (root / "difficulty" / "generator_prompt1" / f"{split}.json").read_text()
        assert json.loads((made / f"{split}.json").read_text()) == json.loads(by_job)
    (made / "test.json").unlink()
    (made / "train.json").write_text("mine")
    prepare_data(cfg)
    assert (made / "test.json").is_file()
    assert (made / "train.json").read_text() == "mine"
    prepare_data(
        load_config(["revseg_tiny", f"data.root={root}", f"difficulty.folder={tmp_path / 'none'}"])
    )
    # Ratings of a model need the job.
    assert not (tmp_path / "none").exists()


def rated_uids(
    pairs: Iterator[tuple[Sample, Mapping[str, int]]],
) -> Iterator[tuple[str, Mapping[str, int]]]:
    for sample, ratings in pairs:
        yield sample.uid, ratings


class Pool:
    """A rollout pool with a script of episodes, by sample."""

    def __init__(self, **episodes: Episode) -> None:
        self.episodes = episodes
        self.asked = list[tuple[float, int]]()

    def play(
        self, samples: Sequence[Sample], *, group_size: int, temperature: float, step: int
    ) -> Iterator[Played]:
        assert group_size == 1
        self.asked.append((temperature, step))
        for index, sample in enumerate(samples):
            episode = self.episodes[f"v{sample.uid[2:]}"]
            yield Played(index, sample, (episode,))


def test_each_set_of_a_mix_gets_a_file_of_its_own(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    sets = f"data.sets=[{{format: revos, root: {tmp_path}, split: train, name: mine}}]"
    mixed = load_config(["videoseg_r1_tiny", f"data.root={tmp_path}", sets])
    assert list(sets_to_rate(mixed)) == ["test", "mine"]
    assert sets_to_rate(mixed)["mine"] == mixed.data.sets[0]
    alone = load_config(["videoseg_r1_tiny", f"data.root={tmp_path}", "data.no_target=keep"])
    assert list(sets_to_rate(alone)) == ["train", "test"]
    assert sets_to_rate(alone)["train"].no_target == "keep"


def test_a_model_is_asked_greedily_first_then_sampled_and_failures_are_bounded() -> None:
    good = Episode("", (), End.DONE, Answer(facts={"ratings": FIVE}))
    bad = Episode("", (), End.FAILED, error="Traceback\nValueError: the prompt is too long")
    pool = Pool(v0=good, v1=bad, v2=good, v3=good)
    rater = by_model(pool, max_failed_share=0.3, temperature=0.7)  # type: ignore[arg-type]
    rated = dict(rated_uids(rater(SAMPLES, 1)))
    assert rated == {"v/0": FIVE, "v/2": FIVE, "v/3": FIVE}
    list(rater(SAMPLES, 2))
    assert pool.asked == [(0.0, 1), (0.7, 2)]
    with pytest.raises(ValueError, match="the prompt is too long .*1 of 2 episodes failed"):
        list(rater(SAMPLES[:2], 1))


def test_a_model_rates_with_real_engines_and_leaves_ray_as_it_was(tmp_path: Path) -> None:
    """The shipped policy never learnt to rate: every sentence is asked again, none is left out."""
    root = tmp_path / "synthetic"
    before = ray.is_initialized()
    write_split(root, "valid", 1, 2, 2)
    small = ["difficulty.num_frames=2", "difficulty.frame_side=112", "difficulty.max_tokens=16"]
    settings = [
        "data.synthetic=false",
        "rollout.max_model_len=2048",
        "difficulty.attempts=2",
        *small,
    ]
    main(["revseg_tiny", f"data.root={root}", *settings])
    content = json.loads((root / "difficulty" / "revseg_prompt1" / "valid.json").read_text())
    assert content["rater"] == "revseg"
    assert ray.is_initialized() == before
    assert set(content["samples"]) == {
        sample.uid for sample in load_samples("mevis", str(root), "valid")
    }
    assert {entry["attempts"] for entry in content["samples"].values()} == {2}


def test_a_rater_that_cannot_work_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="difficulty.rater=generator knows the synthetic data set only"
    ):
        main(["revseg_tiny", "difficulty.rater=generator", "data.synthetic=false"])
    with pytest.raises(ValueError, match="policy.path=nowhere: no config.json there"):
        main(["revseg_tiny", "policy.path=nowhere"])
