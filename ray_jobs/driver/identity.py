"""When two configurations are the same run, and when their predictions may be mixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.load import load as load_config
from configs.schema import Config

# Settings that may change when a run continues: they do not decide what is learned, or from what.
MAY_CHANGE = (
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

# Settings that decide what is predicted, besides the contents of the weights.
PREDICTION = (
    "seed",
    "policy.dtype",
    "data.format",
    "data.test_split",
    "data.no_target",
    "system.",
    "rollout.top_p",
    "rollout.max_model_len",
    "segmenter.kind",
    "segmenter.config",
)


def run_identity(cfg: Config) -> dict[str, Any]:
    """Return every setting that makes two runs different, by its dotted key."""
    leaves = _leaves(asdict(cfg), "")
    return {key: value for key, value in leaves if not key.startswith(MAY_CHANGE)}


def prediction_identity(cfg: Config) -> dict[str, Any]:
    """Return every setting that makes two sets of predictions different, by its dotted key."""
    settings = run_identity(cfg)
    return {key: value for key, value in settings.items() if key.startswith(PREDICTION)}


def refuse_other_run(folder: Path, cfg: Config) -> None:
    """Check that a run may continue in this folder.

    A folder without a checkpoint has nothing to continue, so any run may start in it.

    Raises:
        ValueError: The folder has checkpoints of a run with another identity; continuing would
            mix two runs in one record.
    """
    if not any((folder / "checkpoints").glob("step_*")):
        return

    old = run_identity(load_config([str(folder / "config.yaml")]))
    new = run_identity(cfg)
    differing = []
    for key, value in new.items():
        if old.get(key) != value:
            differing.append(f"{key}={old.get(key)!r} there, {value!r} now")
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing[:4])}): choose "
            "another name=..., or train.resume=never, which sets the old folder aside"
        )


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
