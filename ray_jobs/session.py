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

import ray

from actors.reward import RewardPool
from actors.rollout import RolloutPool
from actors.segmenter import SegmenterPool
from cluster.start import actor_env, join
from configs.load import load as load_config
from configs.load import to_yaml, validate
from configs.schema import Config
from core.masks import union_of_targets
from core.types import Sample
from data.load import load as load_samples
from data.synthetic.write import write_dataset
from ray_jobs.evaluate import Evaluation, best_and_worst, evaluate
from ray_jobs.mlflow_writer import MlflowWriter
from ray_jobs.overlay import overlay_video
from ray_jobs.progress import Progress
from ray_jobs.run_folder import RunFolder

OVERLAYS = 2  # of the best and of the worst expressions


@dataclass
class Session:
    """An open run. Pools start when first asked for."""

    cfg: Config
    run: RunFolder
    progress: Progress
    mlflow: MlflowWriter
    began: float = field(default_factory=time.monotonic)
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, argv: Sequence[str], steps: int = 0) -> Iterator[Session]:
        """Reads and checks the configuration, joins Ray, makes or reads the data.

        Raises:
            ValueError: any setting or file that cannot work; before any engine starts.
        """
        began = time.monotonic()
        cfg = load_config(argv)
        validate(cfg)
        prepare_data(cfg)
        fresh = cfg.train.resume == "never"
        run = RunFolder.open(Path(cfg.runs) / cfg.name, to_yaml(cfg), repository=Path("."), fresh=fresh)
        title = f"{cfg.system.name} · {cfg.policy.path} · {cfg.data.root} · {run.path}"
        with Progress.open(steps or cfg.train.steps, title) as progress:
            with progress.phase("start: Ray"):
                join(cfg)
            mlflow = MlflowWriter(
                cfg.tracking.mlflow_uri, cfg.tracking.experiment, cfg.name, run.path, asdict(cfg), say=progress.note
            )
            session = cls(cfg, run, progress, mlflow, began)
            try:
                yield session
            finally:
                session.close()

    def split(self, name: str) -> list[Sample]:
        """Samples of a split, read once; the run's `data.no_target` applied."""
        if name not in self.samples:
            data = self.cfg.data
            self.samples[name] = load_samples(data.format, data.root, name, data.no_target)
        return self.samples[name]

    @cached_property
    def rollouts(self) -> RolloutPool:
        with self.progress.phase("start: rollout engines"):
            pool = RolloutPool(self.cfg)
            pool.ready()
            return pool

    @cached_property
    def rewards(self) -> RewardPool:
        data = self.cfg.data
        splits = dict.fromkeys([data.train_split, data.eval_split, data.test_split])
        return RewardPool(self.cfg, [s for s in splits if (Path(data.root) / s).is_dir()])

    @cached_property
    def segmenters(self) -> SegmenterPool:
        return SegmenterPool(self.cfg, actor_env(self.cfg))

    def test_samples(self, split: str) -> list[Sample]:
        """The first `train.eval_samples` of a split, or all when there are fewer."""
        return self.split(split)[: self.cfg.train.eval_samples]

    def evaluate(self, split: str, title: str, temperature: float = 0.0, repeats: int = 1) -> Evaluation:
        return evaluate(
            self.test_samples(split), split, self.rollouts, self.rewards, self.segmenters, self.progress,
            title=title, temperature=temperature, repeats=repeats,
        )  # fmt: skip

    def overlays(self, folder: Path, evaluation: Evaluation) -> list[Path]:
        """Overlay videos of the best and the worst expressions."""
        paths = []
        for result in best_and_worst(evaluation, OVERLAYS):
            name = f"{100 * result.jf:03.0f}_{result.sample.uid.replace('/', '_')}.mp4"
            path = folder / "overlays" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            overlay_video(path, result.sample, result.episode, result.masks_F, union_of_targets(result.sample))
            paths.append(path)
        return paths

    def close(self) -> None:
        pools: list[Callable[[], None]] = [
            self.__dict__[name].close for name in ("rollouts", "rewards", "segmenters") if name in self.__dict__
        ]
        for close in pools:
            close()
        self.mlflow.close(timeout=60.0)
        ray.shutdown()


def prepare_data(cfg: Config) -> None:
    """Makes the synthetic data set when the configuration asks for it and it is not there."""
    if cfg.data.synthetic:
        if not Path(cfg.data.root).is_dir():
            print(f"making the synthetic data set in {cfg.data.root}", flush=True)
        write_dataset(Path(cfg.data.root))
