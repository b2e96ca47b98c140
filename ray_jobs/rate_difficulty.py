"""Rates how hard each sentence of a data set is, once, for systems whose length budget depends on it.

    python -m ray_jobs.rate_difficulty revseg_7b policy.path=/models/Qwen2.5-VL-7B-Instruct data.root=...
    python -m ray_jobs.rate_difficulty revseg_tiny difficulty.rater=generator

The rater is any model that the rollout engine runs, or, for the synthetic data set, what is known of how it was made.
Ratings go to <difficulty.folder>/<split>.json, by default below <data.root>/difficulty/<rater>_prompt<version>/;
training reads them from `difficulty.folder`. An answer without five readable ratings is asked for again, sampled;
what is still missing after `difficulty.attempts` counts as the middle of the scale. A job that was killed goes on
where it was.
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
from configs.schema import Config, SystemConfig
from core.difficulty import PROMPT_VERSION, difficulty, is_complete
from core.files import write_json
from core.types import End, Episode, Sample
from data.difficulty import file_of
from data.generators import generator
from data.load import load as load_samples
from data.load import video_objects
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.evaluation import stop_on_failures
from ray_jobs.driver.run import prepare_data
from ray_jobs.record.journal import Journal, fingerprint_of
from ray_jobs.record.progress import Progress

GENERATOR = "generator"
Rate = Callable[
    [Sequence[Sample], int], Iterator[tuple[Sample, Mapping[str, int]]]
]  # samples, attempt (from 1)


def rate(
    samples: Sequence[Sample],
    rater: Rate,
    attempts: int,
    journal: Journal,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Adds {"query", "ratings", "attempts"} of every sample to the journal.

    Incomplete ratings are asked for again, at most `attempts` times in all; the fullest of them count. A sample that
    the rater leaves out (its episode failed) stays out.
    """
    left = [s for s in samples if s.uid not in journal.done]
    best = dict[str, Mapping[str, int]]()
    for attempt in range(1, attempts + 1):
        again = []
        for sample, ratings in rater(left, attempt) if left else ():
            best[sample.uid] = max(best.get(sample.uid, {}), ratings, key=len)
            if is_complete(ratings) or attempt == attempts:
                found = {
                    "query": sample.query,
                    "ratings": dict(best[sample.uid]),
                    "attempts": attempt,
                }
                journal.add(sample.uid, found)
                advance()
            else:
                again.append(sample)
        left = again


def rate_split(
    cfg: Config, split: str, samples: Sequence[Sample], rater: Rate, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Rates a split and writes its file. Returns it and its content."""
    file = file_of(folder_of(cfg), split)
    about = {"rater": rater_name(cfg), "prompt": PROMPT_VERSION}
    shown = [cfg.difficulty.num_frames, cfg.difficulty.frame_side]
    fingerprint = fingerprint_of([*about.items(), shown, [(s.uid, s.query) for s in samples]])
    with (
        progress.phase(f"rate: {split}", len(samples)) as phase,
        Journal.open(file.with_name(f".{split}.journal"), fingerprint) as journal,
    ):
        phase.advance(journal.found)
        rate(samples, rater, cfg.difficulty.attempts, journal, phase.advance)
        rated = {s.uid: journal.done[s.uid] for s in samples if s.uid in journal.done}
        if len(rated) < len(samples):
            raise RuntimeError(
                f"{split}: {len(samples) - len(rated)} of {len(samples)} could not be rated; run again"
            )
        write_json(file, about | {"samples": rated})
        journal.remove()
    return file, about | {"samples": rated}


def by_model(pool: RolloutPool, max_failed_share: float, temperature: float) -> Rate:
    """The rater that asks the model of a rollout pool. The first attempt is greedy; each has seeds of its own."""

    def ask(samples: Sequence[Sample], attempt: int) -> Iterator[tuple[Sample, Mapping[str, int]]]:
        failed: list[Episode] = []
        how = 0.0 if attempt == 1 else temperature
        for played in pool.play(samples, group_size=1, temperature=how, step=attempt):
            episode = played.episodes[0]
            if episode.end is End.FAILED:
                failed.append(episode)
                stop_on_failures(failed, max_failed_share, total=len(samples))
            else:
                yield played.sample, episode.answer.facts["ratings"]

    return ask


def by_generator(objects: Mapping[str, Sequence[Any]]) -> Rate:
    """The rater that knows how the synthetic data set was made. `objects`: those of each video."""
    world = generator()

    def ask(samples: Sequence[Sample], attempt: int) -> Iterator[tuple[Sample, Mapping[str, int]]]:
        for sample in samples:
            yield sample, world.true_ratings(sample, len(objects[sample.video.uid]))

    return ask


def rater_name(cfg: Config) -> str:
    return GENERATOR if cfg.difficulty.rater == GENERATOR else resolve(cfg.policy.path).name


def folder_of(cfg: Config) -> Path:
    """Where ratings go."""
    name = f"{rater_name(cfg)}_prompt{PROMPT_VERSION}"
    return Path(cfg.difficulty.folder or Path(cfg.data.root) / "difficulty" / name)


def splits_of(cfg: Config) -> list[str]:
    data = cfg.data
    named = dict.fromkeys([data.train_split, data.eval_split, data.test_split])
    return cfg.difficulty.splits or [split for split in named if (Path(data.root) / split).is_dir()]


def summary(split: str, content: Mapping[str, Any]) -> list[str]:
    """One row: split, sentences, those without all five ratings, mean D, and the share of low, middle and high D."""
    entries = list(content["samples"].values())
    d = np.array([difficulty(entry["ratings"]) for entry in entries])
    unread = sum(not is_complete(entry["ratings"]) for entry in entries)
    shares = [f"{100 * float(part.mean()):.0f}" for part in (d <= 4, (d > 4) & (d <= 7), d > 7)]
    return [split, str(len(entries)), str(unread), f"{d.mean():.2f}", " / ".join(shares)]


def main(argv: Sequence[str]) -> None:
    cfg = load_config(argv)
    validate_values(cfg)
    _check(cfg)
    prepare_data(cfg)
    data = cfg.data
    options = cfg.difficulty
    samples = {
        split: load_samples(data.format, data.root, split, data.no_target)
        for split in splits_of(cfg)
    }
    system = SystemConfig(
        "difficulty_rater",
        {
            "num_frames": options.num_frames,
            "frame_side": options.frame_side,
            "max_tokens": options.max_tokens,
        },
    )
    alone = replace(
        cfg.cluster, weight_backend="object_store"
    )  # no learner sends weights or asks for a GPU
    cfg = replace(cfg, system=system, cluster=alone, learner=replace(cfg.learner, world_size=0))
    rows = [["split", "sentences", "incomplete", "mean D", "% to 4 / 7 / 10"]]
    with (
        Progress.open(0, f"difficulty · {rater_name(cfg)} · {data.root}") as progress,
        _model(cfg, progress) as model,
    ):
        for split, part in samples.items():
            rater = model or by_generator(video_objects(data.format, data.root, split))
            file, content = rate_split(cfg, split, part, rater, progress)
            rows.append(summary(split, content))
            progress.note(f"{split}: {file}")
        progress.table(
            f"difficulty by {rater_name(cfg)}; use it: difficulty.folder={folder_of(cfg)}", rows
        )


@contextmanager
def _model(cfg: Config, progress: Progress) -> Iterator[Rate | None]:
    """The rater by a model, while its engines run; None where the generator rates."""
    if cfg.difficulty.rater == GENERATOR:
        yield None
        return
    with (
        joined(cfg, progress.phase("start: Ray")) as placement,
        closing(RolloutPool(cfg, placement)) as pool,
    ):
        with progress.phase("start: rollout engines"):
            pool.ready()
        yield by_model(pool, cfg.rollout.max_failed_share, cfg.difficulty.temperature)


def _check(cfg: Config) -> None:
    if cfg.difficulty.rater == GENERATOR:
        if not cfg.data.synthetic:
            raise ValueError(
                "difficulty.rater=generator knows the synthetic data set only (data.synthetic=true)"
            )
    elif not (resolve(cfg.policy.path) / "config.json").is_file():
        raise ValueError(
            f"policy.path={cfg.policy.path}: no config.json there; give the folder of the rater's model"
        )


if __name__ == "__main__":
    run_job(main)
