"""What every job shares: configuration, Ray, data, run folder, progress and the actor pools, opened and closed once.

`Session.open` checks everything that can be checked before an engine starts. It knows no step of training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from actors.drawing import Drawn
from actors.learner_pool import LearnerPool
from actors.painter import PainterPool
from actors.reward import RewardPool, read_split
from actors.rollout import Played, RolloutPool
from actors.segmenter import SegmenterPool
from actors.setup import make_system
from cluster.placement import Placement
from cluster.start import joined
from configs.load import load as load_config
from configs.load import resolve, to_yaml, validate
from configs.schema import Config
from core.masks import union_of_targets
from core.types import Sample, System
from data.hints import file_of, with_hints, write
from data.prepare.keep import keep
from ray_jobs.driver.entry import run_job as run_job
from ray_jobs.driver.evaluation import EVAL_STEP, Evaluation, Result, best_and_worst, evaluate
from ray_jobs.record.mlflow_writer import MlflowWriter
from ray_jobs.record.overlay import overlay_video
from ray_jobs.record.progress import Progress
from ray_jobs.record.run_folder import RunFolder
from tiny.world.ratings import RATER, write_ratings
from tiny.world.write import write_dataset

HINTS = "hints"  # folder in a run's
OVERLAYS = 2  # of the best and of the worst expressions
MAY_CHANGE = (  # when a run goes on: settings that do not say what is learned, or from what
    "name",
    "runs",
    "train.",
    "tracking.",
    "cluster.",
    "warm_start.",
    "evaluate.",
    "prepare.",
    "rollout.workers",
    "reward.",
    "segmenter.workers",
)


@dataclass
class Session:
    """An open run. Pools start when first asked for."""

    cfg: Config
    placement: Placement
    run: RunFolder
    progress: Progress
    mlflow: MlflowWriter
    system: System
    began: float = field(default_factory=time.monotonic)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    alone: bool = False  # an evaluation, which knows the test split only
    learner: LearnerPool | None = (
        None  # in training: of a policy that draws masks it has the newest
    )

    @classmethod
    @contextmanager
    def open(cls, argv: Sequence[str], part: str = "") -> Iterator[Session]:
        """Reads and checks the configuration, makes or reads the data, joins Ray.

        Args:
            part: the subfolder of the run folder that is this job's; "" for the run itself, which resumes.
                "evaluate" reads the test split alone: a benchmark need not have another.

        Raises:
            ValueError: any setting or file that cannot work; before any engine starts.
        """
        began = time.monotonic()
        cfg = load_config(argv)
        validate(cfg)
        system = make_system(cfg)
        check_draws(cfg, system)
        prepare_data(cfg)
        data = cfg.data
        alone = part == "evaluate"
        samples = {
            split: read_split(cfg, split)
            for split in dict.fromkeys(
                [data.test_split] if alone else [data.train_split, data.test_split]
            )
        }
        if data.keep_file and data.train_split in samples:
            samples[data.train_split] = keep(samples[data.train_split], Path(data.keep_file))
        resume = cfg.evaluate.resume if alone else "auto" if part else cfg.train.resume
        path = Path(cfg.runs) / cfg.name / part
        fresh = resume == "never"
        if not part and not fresh:
            same_run(path, cfg)
        run = RunFolder.open(path, to_yaml(cfg), repository=Path("."), fresh=fresh)
        title = f"{cfg.system.name} · {cfg.policy.path} · {data.root} · {run.path}"
        steps = 0 if alone else cfg.train.steps
        with (
            Progress.open(steps, title) as progress,
            joined(cfg, progress.phase("start: Ray")) as placement,
        ):
            mlflow = MlflowWriter(
                cfg.tracking.mlflow_uri,
                cfg.tracking.experiment,
                f"{cfg.name} {part}".strip(),
                run.path,
                asdict(cfg),
                say=progress.note,
            )
            session = cls(cfg, placement, run, progress, mlflow, system, began, samples, alone)
            try:
                yield session
            finally:
                session.close()

    def split(self, name: str) -> list[Sample]:
        """Samples of a split, read once; the run's `data.no_target` applied."""
        if name not in self.samples:
            self.samples[name] = read_split(self.cfg, name)
        return self.samples[name]

    @property
    def hints_folder(self) -> Path:
        """Folder of what is asked on the side once (`data.hints`): of this run, or of the run whose policy this is, if
        that run asked in the same way."""
        if self.cfg.data.hints:
            return Path(self.cfg.data.hints)
        folders = resolve(self.cfg.policy.path).resolve().parents if self.alone else []
        for run in folders:
            config = run / "config.yaml"
            if (
                (run / HINTS).is_dir()
                and config.is_file()
                and load_config([str(config)]).system == self.cfg.system
            ):
                return run / HINTS
        return self.run.path / HINTS

    def freeze(self, splits: Sequence[str], again: bool) -> None:
        """Asks on the side what the measured samples of these splits need (`System.uses_hints`), where no file has it.

        To be called while the rollout actors have the weights that the run starts from: who answers such questions is
        not trained, and before and after must not differ in what was answered. `again`: also where the run has a file.
        """
        for split in dict.fromkeys(splits) if self.system.uses_hints else ():
            file = file_of(self.hints_folder, split)
            if not file.is_file() or (again and not self.cfg.data.hints):
                samples = self.test_samples(split)
                found = {}
                with self.progress.phase(f"ask on the side: {split}", total=len(samples)) as phase:
                    for group in self.rollouts.play(
                        samples, group_size=1, temperature=0.0, step=EVAL_STEP
                    ):
                        found[group.sample.uid] = self.system.hints(group.episodes[0])
                        phase.advance(1)
                write(file.parent, split, samples, found)
            self.take_hints(split)

    def take_hints(self, split: str) -> None:
        """Shows the samples of a split with the hints that there are; the others' questions the policy answers itself.

        ValueError if `data.hints` has none of this split, or not of these samples.
        """
        file = file_of(self.hints_folder, split)
        if self.cfg.data.hints and not file.is_file():
            raise ValueError(
                f"data.hints={self.cfg.data.hints}: there is no {file.name}; a training run makes it"
            )
        if self.system.uses_hints and file.is_file():
            self.samples[split] = with_hints(self.split(split), file)

    @cached_property
    def rollouts(self) -> RolloutPool:
        with self.progress.phase("start: rollout engines"):
            pool = RolloutPool(self.cfg, self.placement)
            pool.ready()
            return pool

    @cached_property
    def rewards(self) -> RewardPool:
        watched = self.cfg.data.eval_split
        with_it = not self.alone and (Path(self.cfg.data.root) / watched).is_dir()
        return RewardPool(
            self.cfg,
            self.placement,
            list(dict.fromkeys([*self.samples, *([watched] if with_it else [])])),
        )

    @cached_property
    def segmenters(self) -> SegmenterPool:
        return SegmenterPool(self.cfg, self.placement)

    @cached_property
    def painters(self) -> PainterPool:
        with self.progress.phase("start: painter"):
            return PainterPool(self.cfg, self.placement)

    @property
    def draws(self) -> bool:
        """Whether the policy draws masks itself."""
        return bool(self.cfg.mask.token)

    def masks(self, groups: Sequence[Played], roles: Sequence[str] = ()) -> list[Drawn]:
        """The masks that the policy draws for these groups; with `roles` only those of these roles."""
        videos = [g.sample.video for g in groups]
        episodes = [g.episodes for g in groups]
        return (self.learner or self.painters).draw(
            videos, episodes, [g.media_ref for g in groups], roles
        )

    def test_samples(self, split: str) -> list[Sample]:
        """The first `train.eval_samples` of a split, or all when there are fewer."""
        return self.split(split)[: self.cfg.train.eval_samples]

    def evaluate(
        self, split: str, title: str, temperature: float = 0.0, repeats: int = 1
    ) -> Evaluation:
        if self.learner and self.cfg.mask.redraw:
            self.segmenters.take_head(self.learner.head())
        return evaluate(
            self.test_samples(split),
            split,
            self.rollouts,
            self.rewards,
            self.segmenters,
            self.progress,
            title=title,
            temperature=temperature,
            repeats=repeats,
            max_failed_share=self.cfg.rollout.max_failed_share,
            draw=self.masks if self.draws else None,
        )

    def overlays(self, folder: Path, evaluation: Evaluation) -> list[Path]:
        """Overlay videos of the best and the worst expressions."""
        return self.draw(folder, best_and_worst(evaluation.results, OVERLAYS))

    def draw(self, folder: Path, results: Sequence[Result]) -> list[Path]:
        """Overlay videos in `folder`/overlays, each named by its J&F."""
        paths = []
        for result in results:
            name = f"{100 * result.jf:03.0f}_{result.sample.uid.replace('/', '_')}.mp4"
            path = folder / "overlays" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            overlay_video(
                path, result.sample, result.episode, result.masks_F, union_of_targets(result.sample)
            )
            paths.append(path)
        return paths

    def close(self) -> None:
        pools: list[Callable[[], None]] = [
            self.__dict__[name].close
            for name in ("rollouts", "rewards", "segmenters", "painters")
            if name in self.__dict__
        ]
        for close in pools:
            close()
        self.mlflow.close(timeout=60.0)


def check_draws(cfg: Config, system: System) -> None:
    """ValueError if the reward needs masks of the policy's own and it has no token to draw them at."""
    if system.masks_by == "policy" and not cfg.mask.token:
        raise ValueError(
            f"mask.token is empty, but {system.name} is paid for masks that the policy draws itself: give the token "
            'at which it draws, mask.token="[SEG]", or give those rewards the weight 0'
        )


def prepare_data(cfg: Config) -> None:
    """Makes the synthetic data set, and its generator's ratings, when the configuration asks for them and they are not
    there: the embedded default needs no job before it. ValueError if `data.root` has videos of another length."""
    if not cfg.data.synthetic:
        return
    root = Path(cfg.data.root)
    difficulty = cfg.difficulty
    if not root.is_dir():
        print(f"making the synthetic data set in {root}", flush=True)
    write_dataset(root, length=cfg.data.length)
    if difficulty.folder and difficulty.rater == RATER:
        write_ratings(root, Path(difficulty.folder))


def same_run(folder: Path, cfg: Config) -> None:
    """ValueError if a run with other settings got anywhere in this folder: going on would mix two runs in one record.

    Settings that say how long, where and how often, not what is learned, may change.
    """
    if not any((folder / "checkpoints").glob("step_*")):
        return  # nothing to go on from: it starts over
    old = settings(load_config([str(folder / "config.yaml")]))
    new = settings(cfg)
    differing = [
        f"{key}={old.get(key)!r} there, {new.get(key)!r} now"
        for key in new
        if old.get(key) != new[key]
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing[:4])}): choose another "
            "name=..., or train.resume=never, which sets the old folder aside"
        )


def settings(cfg: Config) -> dict[str, Any]:
    """Dotted key -> value of all settings that make two runs different."""

    def leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return {key: value for key, value in leaves(asdict(cfg), "") if not key.startswith(MAY_CHANGE)}
