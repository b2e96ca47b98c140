"""Rate once how hard each sentence of a data set is, for systems with budgets by difficulty.

    python -m ray_jobs.rate_difficulty revseg_7b policy.path=/models/Qwen2.5-VL-7B-Instruct
    python -m ray_jobs.rate_difficulty revseg_tiny difficulty.rater=generator

The rater is any model of the rollout engine. The synthetic data set can also be rated by its
generator from the truth. Ratings go to <difficulty.folder>/<split>.json, by default below
<data.root>/difficulty/<rater>_prompt<version>/; training reads them from `difficulty.folder`.

An answer without five readable ratings is asked for again, sampled. Aspects still missing after
`difficulty.attempts` count as the middle of the scale. A killed job continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.rollout import RolloutPool
from cluster.start import joined
from configs.load import load as load_config
from configs.load import resolve, validate_values
from configs.schema import Config, SetConfig, SystemConfig
from core.difficulty import PROMPT_VERSION, Ratings, difficulty, is_complete
from core.files import write_json
from core.types import End, Episode, Sample
from data.bounds import allow_pixels
from data.difficulty import ratings_file
from data.generators import generator
from data.load import load_samples, video_objects
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.evaluation import stop_on_failures
from ray_jobs.driver.run import prepare_data
from ray_jobs.record.journal import Journal, fingerprint_of
from ray_jobs.record.progress import Progress

# The value of `difficulty.rater` for the generator of the synthetic data set.
GENERATOR = "generator"

# From samples and the number of the attempt (from 1) to samples with their ratings, in any order.
RatedSamples = Iterator[tuple[Sample, Ratings]]
Rater = Callable[[Sequence[Sample], int], RatedSamples]


def main(argv: Sequence[str]) -> None:
    cfg = load_config(argv)
    validate_values(cfg)
    check_rater(cfg)
    prepare_data(cfg)
    sets = sets_to_rate(cfg)
    allow_pixels(cfg.data.max_pixels)
    samples = {}
    for name, each in sets.items():
        samples[name] = load_samples(each.format, each.root, each.split, each.no_target)

    cfg = as_rater(cfg)
    rows = [["split", "sentences", "incomplete", "mean D", "% to 4 / 7 / 10"]]
    title = f"difficulty · {rater_name(cfg)} · {cfg.data.root}"
    with Progress.open(0, title) as progress, started_model(cfg, progress) as model:
        for split, split_samples in samples.items():
            rater = model
            if rater is None:
                each = sets[split]
                rater = by_generator(video_objects(each.format, each.root, each.split))
            file, content = rate_split(cfg, split, split_samples, rater, progress)
            rows.append(summary_row(split, content))
            progress.note(f"{split}: {file}")
        remedy = f"use it: difficulty.folder={ratings_folder(cfg)}"
        progress.table(f"difficulty by {rater_name(cfg)}; {remedy}", rows)


def check_rater(cfg: Config) -> None:
    """Refuse a rater without access to this data set or model.

    Raises:
        ValueError: The generator does not know the data set, or the model is not there.
    """
    if cfg.difficulty.rater == GENERATOR:
        if not cfg.data.synthetic:
            raise ValueError(
                "difficulty.rater=generator knows the synthetic data set only (data.synthetic=true)"
            )
    elif not (resolve(cfg.policy.path) / "config.json").is_file():
        raise ValueError(
            f"policy.path={cfg.policy.path}: no config.json there; "
            "give the folder of the rater's model"
        )


def splits_to_rate(cfg: Config) -> list[str]:
    """Return `difficulty.splits`, or the present ones of the configured splits.

    A mix takes the place of `data.train_split`.
    """
    if cfg.difficulty.splits:
        return list(cfg.difficulty.splits)
    data = cfg.data
    root = Path(data.root)
    names = [data.eval_split, data.test_split]
    if not data.sets:
        names.insert(0, data.train_split)
    present = []
    for split in dict.fromkeys(names):
        if (root / split).is_dir():
            present.append(split)
    return present


def sets_to_rate(cfg: Config) -> dict[str, SetConfig]:
    """Return the splits to rate, and the sets of a mix, by the names of their files."""
    data = cfg.data
    found = {}
    for split in splits_to_rate(cfg):
        found[split] = SetConfig(data.format, data.root, split, no_target=data.no_target)
    for each in data.sets:
        found[each.label] = each
    return found


def as_rater(cfg: Config) -> Config:
    """Return the settings of the rollout actors as raters."""
    given = cfg.difficulty
    options = {
        "num_frames": given.num_frames,
        "frame_side": given.frame_side,
        "max_tokens": given.max_tokens,
    }
    # No learner sends weights.
    return replace(
        cfg,
        system=SystemConfig("difficulty_rater", options),
        cluster=replace(cfg.cluster, weight_backend="object_store"),
    )


def rater_name(cfg: Config) -> str:
    if cfg.difficulty.rater == GENERATOR:
        return GENERATOR
    return resolve(cfg.policy.path).name


def ratings_folder(cfg: Config) -> Path:
    if cfg.difficulty.folder:
        return Path(cfg.difficulty.folder)
    return Path(cfg.data.root) / "difficulty" / f"{rater_name(cfg)}_prompt{PROMPT_VERSION}"


@contextmanager
def started_model(cfg: Config, progress: Progress) -> Iterator[Rater | None]:
    """Run the engines of a rating model; None if the generator rates."""
    if cfg.difficulty.rater == GENERATOR:
        yield None
        return
    with (
        joined(cfg, "rate_difficulty", progress.phase("start: Ray"), progress.note) as placement,
        closing(RolloutPool(cfg, placement)) as pool,
    ):
        with progress.phase("start: rollout engines"):
            pool.ready()
        yield by_model(pool, cfg.rollout.max_failed_share, cfg.difficulty.temperature)


def by_model(pool: RolloutPool, max_failed_share: float, temperature: float) -> Rater:
    """Return a rater with the model of a rollout pool.

    The first attempt is greedy, later ones are sampled; each has seeds of its own.
    """

    def ask(samples: Sequence[Sample], attempt: int) -> RatedSamples:
        failed: list[Episode] = []
        how = 0.0 if attempt == 1 else temperature
        for played in pool.play(samples, group_size=1, temperature=how, step=attempt):
            [episode] = played.episodes
            if episode.end is End.FAILED:
                failed.append(episode)
                stop_on_failures(failed, max_failed_share, total=len(samples))
            else:
                yield played.sample, episode.answer.facts["ratings"]

    return ask


def by_generator(objects: Mapping[str, Sequence[Any]]) -> Rater:
    """Return a rater with the truth about the synthetic data set.

    Args:
        objects: All objects of each video.
    """
    world = generator()

    def ask(samples: Sequence[Sample], attempt: int) -> RatedSamples:
        for sample in samples:
            yield sample, world.true_ratings(sample, len(objects[sample.video.uid]))

    return ask


def rate_split(
    cfg: Config, split: str, samples: Sequence[Sample], rater: Rater, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Rate a split and write its file; return the file and its content.

    Raises:
        RuntimeError: A sample has no ratings, because its episode failed.
    """
    file = ratings_file(ratings_folder(cfg), split)
    content: dict[str, Any] = {"rater": rater_name(cfg), "prompt": PROMPT_VERSION}
    shown = [cfg.difficulty.num_frames, cfg.difficulty.frame_side]
    sentences = [(sample.uid, sample.query) for sample in samples]
    fingerprint = fingerprint_of([*content.items(), shown, sentences])

    with (
        progress.phase(f"rate: {split}", len(samples)) as phase,
        Journal.open(file.with_name(f".{split}.journal"), fingerprint) as journal,
    ):
        phase.advance(journal.found)
        rate(samples, rater, cfg.difficulty.attempts, journal, phase.advance)
        content["samples"] = rated_samples(split, samples, journal)
        write_json(file, content)
        journal.remove()
    return file, content


def rated_samples(split: str, samples: Sequence[Sample], journal: Journal) -> dict[str, Any]:
    """Return the entry of each sample in the journal.

    Raises:
        RuntimeError: A sample has none.
    """
    rated = {}
    for sample in samples:
        if sample.uid in journal.done:
            rated[sample.uid] = journal.done[sample.uid]
    missing = len(samples) - len(rated)
    if missing:
        raise RuntimeError(f"{split}: {missing} of {len(samples)} could not be rated; run again")
    return rated


def rate(
    samples: Sequence[Sample],
    rater: Rater,
    attempts: int,
    journal: Journal,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Add {"query", "ratings", "attempts"} of every sample to the journal.

    Incomplete ratings are asked for again, up to `attempts` times in all; the fullest of them
    count. A sample with a failed episode is skipped by the rater and not added.
    """
    waiting = [sample for sample in samples if sample.uid not in journal.done]
    fullest: dict[str, Ratings] = {}
    for attempt in range(1, attempts + 1):
        if not waiting:
            return
        again = []
        for sample, ratings in rater(waiting, attempt):
            before = fullest.get(sample.uid, {})
            if len(ratings) > len(before):
                fullest[sample.uid] = ratings
            if not is_complete(ratings) and attempt < attempts:
                again.append(sample)
                continue
            entry = {
                "query": sample.query,
                "ratings": dict(fullest.get(sample.uid, {})),
                "attempts": attempt,
            }
            journal.add(sample.uid, entry)
            advance()
        waiting = again


def summary_row(split: str, content: Mapping[str, Any]) -> list[str]:
    """Return split, sentences, incomplete ones, mean D, and shares of low, middle and high D."""
    entries = list(content["samples"].values())
    difficulties = np.array([difficulty(entry["ratings"]) for entry in entries])
    incomplete = sum(not is_complete(entry["ratings"]) for entry in entries)

    low = difficulties <= 4
    high = difficulties > 7
    middle = ~low & ~high
    shares = [f"{100 * float(part.mean()):.0f}" for part in (low, middle, high)]
    mean = f"{difficulties.mean():.2f}"
    counts = [str(len(entries)), str(incomplete)]
    return [split, *counts, mean, " / ".join(shares)]


if __name__ == "__main__":
    run_job(main)
