"""Ratings of samples, the generator's own ratings, and the length budgets from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.difficulty import ASPECTS, difficulty, is_complete
from core.types import Sample
from data.difficulty import ratings_file, with_ratings
from data.load import load_samples, video_objects
from rewards.length import LengthBudget
from tiny.world.difficulty import LANGUAGE, true_ratings
from tiny.world.queries import KINDS
from tiny.world.write import write_split


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_split(folder, "train", 5, 25, 3)
    return folder


@pytest.fixture(scope="module")
def samples(root: Path) -> list[Sample]:
    return load_samples("mevis", str(root), "train", "keep")


def store(folder: Path, samples: list[Sample], ratings: list[dict[str, int]]) -> None:
    entries = {}
    for sample, of_sample in zip(samples, ratings, strict=True):
        entries[sample.uid] = {"query": sample.query, "ratings": of_sample, "attempts": 1}
    content = {"rater": "script", "prompt": 1, "samples": entries}
    ratings_file(folder, "train").write_text(json.dumps(content))


def test_the_generator_rates_every_aspect_over_the_scale(root: Path, samples: list[Sample]) -> None:
    objects = video_objects("mevis", str(root), "train")
    ratings = []
    for sample in samples:
        of_sample = true_ratings(sample, len(objects[sample.video.uid]))
        assert is_complete(of_sample)
        assert min(of_sample.values()) >= 1
        assert max(of_sample.values()) <= 10
        ratings.append(of_sample)
    for aspect in ASPECTS:
        assert np.ptp([of_sample[aspect] for of_sample in ratings]) >= 4
    assert set(LANGUAGE) == set(KINDS)


def test_more_shapes_and_a_harder_kind_of_sentence_are_harder(samples: list[Sample]) -> None:
    look = next(sample for sample in samples if sample.kind == "look")
    assert difficulty(true_ratings(look, 3)) < difficulty(true_ratings(look, 5))
    hiding = replace(look, kind="hiding")
    aspect = "linguistic_ambiguity"
    assert true_ratings(hiding, 3)[aspect] > true_ratings(look, 3)[aspect]
    poem = replace(look, kind="poem")
    with pytest.raises(ValueError, match="kind 'poem' is not one of the synthetic"):
        true_ratings(poem, 3)


def test_stored_ratings_become_difficulty_and_budget(tmp_path: Path, samples: list[Sample]) -> None:
    scale = [1 + i % 10 for i in range(len(samples))]
    ratings = [dict.fromkeys(ASPECTS, rating) for rating in scale]
    # Nothing could be read of the first answer, so it counts as the middle of the scale.
    ratings[0] = {}
    store(tmp_path, samples, ratings)
    noted = with_ratings(samples, str(tmp_path), "train")
    found = [difficulty(sample.notes.ratings or {}) for sample in noted]
    assert found == [5.5, *scale[1:]]
    budgets = [LengthBudget().of(d) for d in found[1:10]]
    assert budgets == [48, 48, 48, 64, 64, 64, 96, 96, 96]
    assert noted[3].notes.thought == samples[3].notes.thought
    assert samples[3].notes.ratings is None


def test_without_a_folder_samples_stay_as_they_are(samples: list[Sample]) -> None:
    assert with_ratings(samples, "", "train") == samples


def test_ratings_of_something_else_are_told(tmp_path: Path, samples: list[Sample]) -> None:
    with pytest.raises(
        ValueError,
        match="difficulty.folder: no file .*train.json; `ray_jobs.rate_difficulty` makes",
    ):
        with_ratings(samples, str(tmp_path), "train")
    store(tmp_path, samples[1:], [{}] * (len(samples) - 1))
    with pytest.raises(ValueError, match=f"no rating of '{samples[0].uid}'"):
        with_ratings(samples, str(tmp_path), "train")
    ratings_file(tmp_path, "train").write_text("[]")
    with pytest.raises(ValueError, match='has no "samples"'):
        with_ratings(samples, str(tmp_path), "train")
