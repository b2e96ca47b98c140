"""Hints of a run: the initial policy's answers to a system's auxiliary questions.

They are asked once, before training, and stored. Measurements before and after training then differ
in the policy alone, and not in these answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.rollout import RolloutPool
from configs.load import load as load_config
from configs.load import resolve
from configs.schema import Config
from data.hints import hints_file, with_hints, write_hints
from ray_jobs.driver.evaluation import EVAL_STEP
from ray_jobs.driver.run import Run

FOLDER = "hints"


@dataclass(frozen=True)
class HintStore:
    """The stored hints of a run, one file a split."""

    run: Run
    folder: Path

    def ask(self, splits: Sequence[str], rollouts: RolloutPool, again: bool) -> None:
        """Ask the auxiliary questions of the measured samples of some splits, and attach the hints.

        Call this while the rollout actors still hold the initial weights of the run.

        Args:
            splits: Names of splits; one with a file is not asked again.
            rollouts: The actors to ask.
            again: Ask even if this run has a file. Files of `data.hints` are never replaced.

        Raises:
            ValueError: As `attach`.
        """
        if not self.run.system.uses_hints:
            return
        for split in dict.fromkeys(splits):
            missing = not hints_file(self.folder, split).is_file()
            if missing or (again and not self.run.cfg.data.hints):
                self._ask_split(split, rollouts)
            self.attach(split)

    def attach(self, split: str) -> None:
        """Attach the stored hints to the samples of a split.

        The policy itself answers the questions of a sample without a hint.

        Raises:
            ValueError: `data.hints` lacks this split, or the file belongs to other samples.
        """
        given = self.run.cfg.data.hints
        file = hints_file(self.folder, split)
        if given and not file.is_file():
            raise ValueError(
                f"data.hints={given}: there is no {file.name}; a training run makes it"
            )
        if self.run.system.uses_hints and file.is_file():
            self.run.samples[split] = with_hints(self.run.split(split), file)

    def _ask_split(self, split: str, rollouts: RolloutPool) -> None:
        samples = self.run.measured_samples(split)
        hints = {}
        with self.run.progress.phase(f"auxiliary questions: {split}", total=len(samples)) as phase:
            groups = rollouts.play(samples, group_size=1, temperature=0.0, step=EVAL_STEP)
            for group in groups:
                [episode] = group.episodes
                hints[group.sample.uid] = self.run.system.hints(episode)
                phase.advance(1)
        write_hints(self.folder, split, samples, hints)


def own_hints(cfg: Config, run_folder: Path) -> Path:
    """Return the folder of a training run's hints: `data.hints`, or a folder of the run."""
    if cfg.data.hints:
        return Path(cfg.data.hints)
    return run_folder / FOLDER


def hints_of_policy(cfg: Config, run_folder: Path) -> Path:
    """Return the folder of the hints for an evaluation.

    A checkpoint is evaluated with the hints of its training run, if that had the same `system`
    section and the same data set; any other policy as in `own_hints`.
    """
    if cfg.data.hints:
        return Path(cfg.data.hints)
    for folder in resolve(cfg.policy.path).resolve().parents:
        config = folder / "config.yaml"
        if not (folder / FOLDER).is_dir() or not config.is_file():
            continue
        trained = load_config([str(config)])
        if trained.system == cfg.system and _same_data(trained, cfg):
            return folder / FOLDER
    return own_hints(cfg, run_folder)


def _same_data(one: Config, other: Config) -> bool:
    if one.data.format != other.data.format:
        return False
    return resolve(one.data.root) == resolve(other.data.root)
