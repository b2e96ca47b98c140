"""The frozen sampler of an evaluation: it answers the auxiliary questions that no file answers.

A trained policy must not choose its own frames, as the sampler of the paper is never trained. So
the policy before training is asked, by an engine of its own that ends before the evaluation plays.
Answers are kept beside the predictions, in hints/<split>.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.rollout import RolloutPool
from configs.load import load as load_config
from configs.load import policy_path, resolve
from configs.schema import Config
from core.types import End, Episode, Hints, Sample
from data.hints import hints_file, read_hints, write_hints
from ray_jobs.driver.evaluation import EVAL_STEP, stop_on_failures
from ray_jobs.driver.hints import FOLDER
from ray_jobs.driver.run import Run

if TYPE_CHECKING:
    from ray_jobs.driver.benchmark import Benchmark


def sampler_of(cfg: Config) -> Path | None:
    """Return the model folder of the frozen sampler; None if it is the policy itself.

    It is `evaluate.sampler`, or the policy that the training run of `policy.path` began with. A
    policy outside of a training run is untrained, and its own sampler.

    Raises:
        ValueError: The folder holds no model.
    """
    policy = resolve(cfg.policy.path).resolve()
    where = "evaluate.sampler"
    given = cfg.evaluate.sampler
    if not given:
        where = "evaluate.sampler: empty, and the policy before training"
        given = _policy_before(policy)
    if not given:
        return None
    sampler = resolve(policy_path(given)).resolve()
    if sampler == policy:
        return None
    if not (sampler / "config.json").is_file():
        raise ValueError(
            f"{where}={given}: no config.json in {sampler}; give evaluate.sampler=FOLDER, or "
            "data.hints=FOLDER with its answers"
        )
    return sampler


def lacks_hints(samples: Iterable[Sample]) -> bool:
    """Return True if a sample has no hint."""
    return any(sample.hints is None for sample in samples)


def with_answers(samples: Sequence[Sample], file: Path) -> list[Sample]:
    """Return the samples, those without a hint with the one of the file, if it has any."""
    if not file.is_file():
        return list(samples)
    answers = read_hints(samples, file)
    return [replace(each, hints=each.hints or answers.get(each.uid)) for each in samples]


def ask_sampler(run: Run, benchmarks: Sequence[Benchmark]) -> None:
    """Ask the frozen sampler about all waiting samples without a hint; attach its answers.

    One engine serves all benchmarks. It ends before another one starts.

    Raises:
        ValueError, RuntimeError: Too many questions failed; the answers so far stay on disk.
    """
    asking = [benchmark for benchmark in benchmarks if _unasked(benchmark)]
    if not asking or not run.system.uses_hints:
        return
    sampler = sampler_of(run.cfg)
    if sampler is None:
        return

    cfg = replace(run.cfg, policy=replace(run.cfg.policy, path=str(sampler)))
    with run.progress.phase("start: frozen sampler"):
        rollouts = RolloutPool(cfg, run.placement)
        rollouts.ready()
    try:
        for benchmark in asking:
            _ask(benchmark, rollouts)
    finally:
        rollouts.close()


def _ask(benchmark: Benchmark, rollouts: RolloutPool) -> None:
    """Ask about the samples of one benchmark, and write the answers a chunk at a time."""
    run = benchmark.run
    split = benchmark.split
    folder = benchmark.folder / FOLDER
    samples = _unasked(benchmark)
    found = _answers(benchmark)
    failed: list[Episode] = []
    title = benchmark.phase("auxiliary questions")
    with run.progress.phase(title, total=len(samples)) as phase:
        groups = rollouts.play(samples, group_size=1, temperature=0.0, step=EVAL_STEP)
        for number, group in enumerate(groups, start=1):
            [episode] = group.episodes
            if episode.end is End.FAILED:
                # Not the sampler's answer: the next start asks again.
                failed.append(episode)
            else:
                found[group.sample.uid] = run.system.hints(episode)
            if number % run.cfg.evaluate.chunk == 0:
                write_hints(folder, split, run.split(split), found)
            phase.advance(1)
    stop_on_failures(failed, run.cfg.rollout.max_failed_share, len(samples))
    write_hints(folder, split, run.split(split), found)
    run.samples[split] = with_answers(run.split(split), hints_file(folder, split))


def _answers(benchmark: Benchmark) -> dict[str, Hints | None]:
    """Return the sampler's answers so far, by uid; None where it was asked in vain."""
    file = hints_file(benchmark.folder / FOLDER, benchmark.split)
    if not file.is_file():
        return {}
    return read_hints(benchmark.run.split(benchmark.split), file)


def _unasked(benchmark: Benchmark) -> list[Sample]:
    """Return the waiting samples without a hint that the sampler was not asked about."""
    asked = _answers(benchmark)
    unasked = []
    for sample in benchmark.waiting:
        if sample.hints is None and sample.uid not in asked:
            unasked.append(sample)
    return unasked


def _policy_before(policy: Path) -> str:
    """Return the policy that a checkpoint's training began with; "" for no checkpoint of a run."""
    for folder in policy.parents:
        config = folder.parent / "config.yaml"
        if folder.name == "checkpoints" and config.is_file():
            return load_config([str(config)]).policy.path
    return ""
