"""A run: the configuration, data, record, progress display and tracker of one job.

    cfg = checked_config(argv)
    with Run.open(cfg, splits=[cfg.data.test_split]) as run:
        samples = run.split(cfg.data.test_split)

All checks before the start of an engine are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.setup import make_system
from actors.splits import read_split
from cluster.placement import Job, Placement
from cluster.start import joined
from configs.load import load as load_config
from configs.load import to_yaml, validate
from configs.schema import RUN, Config
from core.settings import identity
from core.types import Sample, System
from data.generators import generator
from data.prepare.keep import keep_samples
from ray_jobs.driver.keeping import Keeping, keeping
from ray_jobs.driver.preflight import check_prompts
from ray_jobs.driver.requests import Requests
from ray_jobs.driver.tracking import tracked
from ray_jobs.driver.truths import check_splits
from ray_jobs.record.mlflow_writer import MlflowWriter
from ray_jobs.record.owner import owned
from ray_jobs.record.progress import Progress
from ray_jobs.record.run_folder import RunFolder


@dataclass
class Run:
    """An open run.

    Attributes:
        cfg: The resolved configuration.
        system: The system named by `cfg.system`.
        samples: The splits read so far, by name.
        record: The run's files.
        progress: The display of the job.
        tracker: The copy of metrics and files in MLflow.
        placement: The devices of the actors.
        requests: What users and signals ask of the job.
        keeping: Its episodes kept in full for the replay page.
    """

    cfg: Config
    system: System
    samples: dict[str, list[Sample]]
    record: RunFolder
    progress: Progress
    tracker: MlflowWriter
    placement: Placement
    requests: Requests
    keeping: Keeping

    @classmethod
    @contextmanager
    def open(
        cls,
        cfg: Config,
        *,
        splits: Sequence[str],
        job: Job = "train",
        folder: str = "",
        fresh: bool = False,
        total_steps: int = 0,
    ) -> Iterator[Run]:
        """Read the data, open the record, and join Ray.

        Args:
            cfg: A checked configuration.
            splits: The splits of the job, in reading order.
            job: The job; it decides which actors need room.
            folder: The job's own folder inside the run folder; empty for the run itself.
            fresh: Set aside an existing record, instead of continuing it.
            total_steps: The display counts to this number of steps.

        Raises:
            ValueError: An impossible setting or file, or another process that writes the same
                run folder; before any engine starts.
        """
        # Cheap checks first; reading a large data set takes minutes.
        system = make_system(cfg)
        check_mask_token(cfg, system)
        samples = checked_splits(cfg, system, splits, folder)
        counted = check_prompts(cfg, system, samples.values())

        path = folder_of(cfg, folder)
        with owned(path):
            record = RunFolder.open(path, to_yaml(cfg), repository=Path("."), fresh=fresh)
            # The tracker is closed after the actors: sending the rest takes a while.
            with (
                Progress.open(total_steps, title_of(cfg, path)) as progress,
                joined(cfg, job, progress.phase("start: Ray"), progress.note) as placement,
                Requests.listening(progress.note) as requests,
                tracked(cfg, folder, record, samples, progress.note) as tracker,
                keeping(cfg, path, samples, progress.note, tracker) as kept,
            ):
                if counted.prompts:
                    progress.note(str(counted))
                yield cls(
                    cfg, system, samples, record, progress, tracker, placement, requests, kept
                )

    def split(self, name: str) -> list[Sample]:
        """Return the samples of a split; it is read once."""
        if name not in self.samples:
            self.samples[name] = read_split(self.cfg, name)
        return self.samples[name]

    def measured_samples(self, split: str) -> list[Sample]:
        """Return the samples to measure in training: the first `train.eval_samples` of a split."""
        return self.split(split)[: self.cfg.train.eval_samples]


def title_of(cfg: Config, path: Path) -> str:
    """Return the headline of a job."""
    return f"{cfg.system.name} · {cfg.policy.path} · {cfg.data.root} · {path}"


def folder_of(cfg: Config, folder: str) -> Path:
    """Return the run's folder, or that of a job inside it."""
    return Path(cfg.runs) / cfg.name / folder


def checked_config(argv: Sequence[str]) -> Config:
    """Load a configuration from a command line and check it.

    Raises:
        ValueError: An impossible setting.
    """
    cfg = load_config(argv)
    validate(cfg)
    return cfg


def refuse_other_run(folder: Path, cfg: Config) -> None:
    """Refuse to continue another run in this folder.

    A folder without a checkpoint has nothing to continue, so any run may start in it.

    Raises:
        ValueError: The folder has checkpoints of a run with another identity; continuing would
            mix two runs in one record.
    """
    if not any((folder / "checkpoints").glob("step_*")):
        return

    try:
        old = identity(load_config([str(folder / "config.yaml")]), RUN)
    except ValueError as error:
        raise ValueError(
            f"{error}; this tells the settings of the run in {folder}: mend the file, or set the "
            "folder aside with train.resume=never"
        ) from error
    new = identity(cfg, RUN)
    differing = []
    for key, value in new.items():
        if old.get(key) != value:
            differing.append(f"{key}={old.get(key)!r} there, {value!r} now")
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing[:4])}): choose "
            "another name=..., or train.resume=never, which sets the old folder aside"
        )


def checked_splits(
    cfg: Config, system: System, splits: Sequence[str], job: str
) -> dict[str, list[Sample]]:
    """Read some splits, made first if they are synthetic, and check them for a job.

    Raises:
        ValueError: As `read_split` and `check_splits`.
    """
    prepare_data(cfg)
    samples = read_splits(cfg, splits)
    check_splits(cfg, system, samples, job=job)
    return samples


def read_splits(cfg: Config, splits: Sequence[str]) -> dict[str, list[Sample]]:
    """Read some splits; the training split keeps only the samples of `data.keep_file`, if set.

    The sets of a mix have keep files of their own.
    """
    samples = {}
    # Two of the splits may be the same one.
    for split in dict.fromkeys(splits):
        samples[split] = read_split(cfg, split)
    train = cfg.data.train_split
    if cfg.data.keep_file and train in samples:
        samples[train] = keep_samples(samples[train], Path(cfg.data.keep_file))
    return samples


def check_mask_token(cfg: Config, system: System) -> None:
    """Refuse a policy without a token to draw at, if its reward needs drawn masks.

    Raises:
        ValueError: `mask.token` is empty.
    """
    if system.masks_by == "policy" and not cfg.mask.token:
        raise ValueError(
            f"mask.token is empty, but {system.name} rewards masks that the policy draws "
            'itself: give the token at which it draws, mask.token="[SEG]", or give those rewards '
            "the weight 0"
        )


def prepare_data(cfg: Config) -> None:
    """Make the synthetic data set and its ratings, if `data.synthetic` is set and they are missing.

    Raises:
        ValueError: `data.root` has videos of another length.
    """
    if not cfg.data.synthetic:
        return
    root = Path(cfg.data.root)
    if not root.is_dir():
        print(f"making the synthetic data set in {root}", flush=True)
    synthetic = generator()
    synthetic.make(root, cfg.data.length)
    if cfg.difficulty.folder and cfg.difficulty.rater == "generator":
        synthetic.make_ratings(root, Path(cfg.difficulty.folder))
