"""The benchmarks of an evaluation: `data.test_split` alone, or each of `evaluate.sets`.

A set is evaluated as a run of its own would be: with its format, root and split in the place of
`data`, in its own folder of the run. So its predictions continue by themselves, and a single
evaluation has the same figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from actors.reward import read_split
from configs.load import resolve, to_yaml
from configs.schema import Config, SetConfig
from core.files import write_atomic
from core.types import Sample
from data.hints import hints_file
from data.holdout import HOLDOUT
from data.prepare.keep import keep_samples
from ray_jobs.driver.frozen_sampler import lacks_hints, sampler_of, with_answers
from ray_jobs.driver.hints import FOLDER, HintStore, hints_of_policy
from ray_jobs.driver.measuring import hidden
from ray_jobs.driver.run import Run, prepare_data
from ray_jobs.driver.truths import check_measurable
from ray_jobs.record.predictions import (
    FILE,
    IDENTITY,
    Predictions,
    content_of,
    digest_of,
    influences,
)
from ray_jobs.record.run_folder import RunFolder

# Names in an evaluation's folder that no set may have.
TAKEN = ("checkpoints", "evaluation", "overlays", FOLDER)


@dataclass(frozen=True)
class SetOnDisk:
    """One of `evaluate.sets`, read.

    Attributes:
        name: Its name.
        cfg: The configuration of an evaluation of this set alone.
        samples: Its expressions.
    """

    name: str
    cfg: Config
    samples: list[Sample]


@dataclass(frozen=True)
class Benchmark:
    """One split to evaluate, with the predictions made so far.

    Attributes:
        run: The run with the configuration, samples and folder of this split.
        name: The name of the set; empty for `data.test_split`.
        predictions: Its lines on disk.
    """

    run: Run
    name: str
    predictions: Predictions

    @property
    def split(self) -> str:
        return self.run.cfg.data.test_split

    @property
    def folder(self) -> Path:
        return self.run.record.path

    @property
    def samples(self) -> list[Sample]:
        """The expressions to measure: all, or the first `evaluate.samples`."""
        samples = self.run.split(self.split)
        return samples[: self.run.cfg.evaluate.samples or len(samples)]

    @property
    def waiting(self) -> list[Sample]:
        """The expressions without a prediction."""
        finished = self.predictions.finished
        return [sample for sample in self.samples if sample.uid not in finished]

    @property
    def without_truth(self) -> bool:
        """True if no expression has public ground truth."""
        return all(hidden(sample) for sample in self.samples)

    def phase(self, title: str) -> str:
        """Return a title for the display, with the name of the set."""
        return f"{title} {self.name}".strip()


def configured(cfg: Config) -> Config:
    """Return the configuration for opening the run, without the folders that are not read.

    Those are the sets of training, unless their held-out part is measured, and with `evaluate.sets`
    also `data.root`.
    """
    sets = cfg.evaluate.sets
    if not sets and cfg.data.test_split == HOLDOUT:
        return cfg
    data = replace(cfg.data, sets=[])
    if sets and resolve(data.root) not in [resolve(each.root) for each in sets]:
        data = replace(data, root=sets[0].root, synthetic=False)
    return replace(cfg, data=data)


def read_sets(cfg: Config) -> list[SetOnDisk]:
    """Read all of `evaluate.sets`, before anything starts.

    Raises:
        ValueError: Every set that cannot be evaluated, one a line.
    """
    protocol = cfg.evaluate.protocol
    if cfg.evaluate.sets and protocol != "auto":
        raise ValueError(
            f"evaluate.protocol={protocol}: each of evaluate.sets is measured by the protocol of "
            "its format; leave it at auto, or evaluate that set alone"
        )
    sets = []
    problems = []
    for index, each in enumerate(cfg.evaluate.sets):
        where = f"evaluate.sets[{index}] ({each.label})"
        if each.label in TAKEN:
            problems.append(f"{where}: a folder of the run has this name; give another name=...")
            continue
        try:
            sets.append(read_set(cfg, each))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return sets


def read_set(cfg: Config, each: SetConfig) -> SetOnDisk:
    """Read one set. A set without public truth keeps all its expressions, for its server.

    Raises:
        ValueError: Its files have an error, or no expression is left.
    """
    whole = config_of_set(cfg, each, no_target="keep")
    prepare_data(whole)
    samples = read_split(whole, each.split)
    check_measurable(samples, f"{each.root}, split {each.split!r}")
    if each.keep_file:
        samples = keep_samples(samples, Path(each.keep_file))
    if each.no_target == "keep" or all(hidden(sample) for sample in samples):
        return SetOnDisk(each.label, whole, samples)

    samples = [sample for sample in samples if sample.targets]
    if not samples:
        raise ValueError(
            f"{each.root}: no expression of {each.split} has a target; no_target: keep"
        )
    return SetOnDisk(each.label, config_of_set(cfg, each, no_target="skip"), samples)


def config_of_set(cfg: Config, each: SetConfig, no_target: Literal["skip", "keep"]) -> Config:
    """Return the configuration of an evaluation of one set alone."""
    same_data = resolve(each.root) == resolve(cfg.data.root)
    data = replace(
        cfg.data,
        format=each.format,
        root=each.root,
        test_split=each.split,
        no_target=no_target,
        synthetic=cfg.data.synthetic and same_data,
        hints=_hints_of_set(cfg, each.label),
        sets=[],
    )
    # Ratings belong to the data set of the training.
    difficulty = cfg.difficulty if same_data else replace(cfg.difficulty, folder="")
    evaluate = replace(cfg.evaluate, sets=[])
    return replace(cfg, data=data, difficulty=difficulty, evaluate=evaluate)


def open_set(run: Run, each: SetOnDisk) -> Benchmark:
    """Open a set in its own folder of the run.

    Raises:
        ValueError: As `open_benchmark`.
    """
    record = RunFolder(run.record.path / each.name)
    record.path.mkdir(parents=True, exist_ok=True)
    write_atomic(record.path / "config.yaml", to_yaml(each.cfg))
    samples = {each.cfg.data.test_split: each.samples}
    return open_benchmark(replace(run, cfg=each.cfg, samples=samples, record=record), each.name)


def open_benchmark(run: Run, name: str = "") -> Benchmark:
    """Attach the stored hints of `data.test_split`, and continue its predictions or start them.

    Raises:
        ValueError: The folder holds another evaluation, or hints cannot be had.
    """
    cfg = run.cfg
    folder = run.record.path
    split = cfg.data.test_split
    made = folder / FOLDER
    stored = hints_of_policy(cfg, folder)
    if stored != made:
        HintStore(run, stored).attach(split)

    # The identity covers the whole split, so a run of a part can be continued with the rest.
    # Answers of the sampler come with the playing, so the sampler stands for them.
    found = evaluation_identity(cfg, run.split(split))
    if run.system.uses_hints and lacks_hints(run.split(split)):
        sampler = sampler_of(cfg)
        if sampler is not None:
            found["contents of evaluate.sampler"] = content_of(sampler)
            run.samples[split] = with_answers(run.split(split), hints_file(made, split))
    return Benchmark(run, name, Predictions.open(folder, found))


def evaluation_identity(cfg: Config, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return all influences on the predictions. Predictions of two identities are never mixed."""
    found = influences(cfg)
    found["expressions"] = len(samples)
    found["contents of the split"] = digest_of(_texts(samples))
    return found


def refuse_other_form(folder: Path, sets: Sequence[SetOnDisk]) -> None:
    """Refuse to evaluate sets in the folder of a single evaluation, or the other way round.

    Raises:
        ValueError: The folder holds an evaluation of the other form.
    """
    single = (folder / FILE).exists()
    several = any(folder.glob(f"*/{IDENTITY}"))
    if (sets and single) or (not sets and several):
        there = "one split" if single else "evaluate.sets"
        raise ValueError(
            f"{folder} holds an evaluation of {there}: choose another name=..., or "
            "evaluate.resume=never, which sets the old folder aside"
        )


def _hints_of_set(cfg: Config, name: str) -> str:
    """Return the folder of a set's hints in the evaluation `data.hints`; "" if it has none."""
    folder = Path(cfg.data.hints) / name / FOLDER
    return str(folder) if cfg.data.hints and folder.is_dir() else ""


def _texts(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield the identity of each sample: its names, query, targets and hints."""
    for sample in samples:
        texts = [sample.uid, sample.query, *sample.video.frame_names]
        texts += [target.uid for target in sample.targets]
        if sample.hints is not None:
            texts += [str(hint) for hint in sample.hints.to_json().items()]
        yield "\n".join(texts)
