"""What a job hands to MLflow beside its steps: parameters, tags, data sets, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import systems
from actors.splits import training_split
from configs.schema import Config
from core.files import read_json
from core.settings import flat_settings, settings_of
from core.types import Sample
from ray_jobs.driver import supervisor
from ray_jobs.record.dead_runs import FOLDER
from ray_jobs.record.journal import fingerprint_of
from ray_jobs.record.mlflow_writer import PARENT, MlflowWriter
from ray_jobs.record.outbox import name_of
from ray_jobs.record.run_folder import RunFolder

Say = Callable[[str], None]


@contextmanager
def tracked(
    cfg: Config,
    job: str,
    record: RunFolder,
    samples: Mapping[str, Sequence[Sample]],
    say: Say = print,
) -> Iterator[MlflowWriter]:
    """Copy the record to MLflow; at the end its status is FINISHED, FAILED or KILLED.

    Args:
        job: The job's folder inside the run folder; empty for the run itself.
        samples: The samples of its splits.
    """
    described = []
    for split, of_split in samples.items():
        context = "training" if split == training_split(cfg) else "evaluation"
        described.append(describe(cfg, split, context, of_split))
    tracker = writer_of(cfg, job, record.path, say, described)
    supervisor.tell(f"tracked {record.path.absolute()}")
    # The last record of an outbox is a status only if no process came after it.
    tracker.tags({"started": time.strftime("%Y-%m-%d %H:%M:%S")})
    for each in described:
        tracker.data(each)
    with ended(tracker):
        yield tracker


@contextmanager
def ended(tracker: MlflowWriter) -> Iterator[None]:
    """Close a tracker at the end of the block, with the status that fits it."""
    status = "FAILED"
    timeout = 60.0
    try:
        yield
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        # The notice before a preemption is short, and the next start sends the rest.
        timeout = 10.0
        raise
    finally:
        tracker.close(timeout=timeout, status=status)


def writer_of(
    cfg: Config,
    job: str,
    folder: Path,
    say: Say = print,
    described: Sequence[Mapping[str, Any]] = (),
) -> MlflowWriter:
    """Return the writer of a job, with its parameters and tags.

    Args:
        job: As in `tracked`.
        folder: The job's folder.
        described: The data sets of the job, as `describe` returns them.
    """
    return MlflowWriter(
        cfg.tracking.mlflow_uri,
        cfg.tracking.experiment,
        f"{cfg.name} {job}".strip(),
        folder,
        params_of(cfg),
        say=say,
        tags=tags_of(cfg, job, folder, described),
    )


def params_of(cfg: Config) -> dict[str, Any]:
    """Return dotted key -> value of all settings, the defaults of the system's options too."""
    params = flat_settings(cfg)
    options = getattr(systems.make(cfg.system.name, cfg.system.options), "options", None)
    if options is not None:
        for each in settings_of(options, "system.options."):
            params[each.key] = each.value
    return params


def tags_of(
    cfg: Config, job: str, folder: Path, described: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return what tells runs apart beside their parameters."""
    tags = {
        "system": cfg.system.name,
        "preset": cfg.tracking.preset,
        "job": job or "train",
        FOLDER: str(folder.absolute()),
        # A job about a run, such as its evaluation, stands below it.
        PARENT: (name_of(folder.parent) if job else "") or cfg.tracking.parent,
    }
    if described:
        tags["data_digest"] = fingerprint_of([each["digest"] for each in described])
    facts = read_json(folder / "environment.json", "remove it")
    if "commit" in facts:
        tags["commit"] = facts["commit"]
        tags["commit_dirty"] = str(facts["dirty"]).lower()
        # MLflow's own tag, for its column of versions.
        tags["mlflow.source.git.commit"] = facts["commit"]
    return tags


def describe(cfg: Config, split: str, context: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return name, digest and size of a split.

    The digest is that of sentences, videos and numbers of targets, not of pixels and masks.
    """
    facts = []
    videos = set()
    for sample in samples:
        video = sample.video
        videos.add(video.uid)
        size = [video.uid, video.num_frames, video.height, video.width]
        facts.append([sample.uid, sample.query, sample.kind, len(sample.targets), *size])
    mixed = [f"{each.format}:{each.root}" for each in cfg.data.sets]
    is_mix = bool(mixed) and split == training_split(cfg)
    root = ", ".join(mixed) if is_mix else cfg.data.root
    name = split if is_mix else f"{cfg.data.format} {split}"
    return {
        "name": name,
        "digest": fingerprint_of(facts),
        "root": root,
        "context": context,
        "profile": {"samples": len(samples), "videos": len(videos)},
    }
