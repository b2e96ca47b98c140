"""Loads a split of any data set format that there is a reader for. A new format is a new reader and a line here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from core.types import Sample, Target
from data.readers import (
    cot,
    davis,
    long_rvos,
    mevis,
    own,
    reason_seg,
    reason_vos,
    refcoco,
    revos,
    youtube_vos,
)
from data.readers.fields import Faults

Reader = Callable[
    ..., list[Sample]
]  # (root, split, data.readers.fields.Faults: what an error does; without, it is raised)
READERS: dict[str, Reader] = {
    "mevis": mevis.read,
    "revos": revos.read,
    "lvvis": mevis.read_lvvis,
    "reasonvos": reason_vos.read,
    "longrvos": long_rvos.read,
    "ref_youtube_vos": youtube_vos.read,
    "ref_davis17": davis.read,
    "reasonseg": reason_seg.read,
    "refcoco": refcoco.read,
    "vts_cot": cot.read_vts_cot,
    "o3_rl": cot.read_o3_rl,
    "own": own.read,
}
NO_TARGET = ("skip", "keep")
BROKEN = ("stop", "skip")

log = logging.getLogger(__name__)


def load(
    format: str, root: str, split: str, no_target: str = "skip", broken: str = "stop"
) -> list[Sample]:
    """The samples of a split (`data.format`, `data.root`, a split's name, `data.no_target`).

    A relative root is one of the current directory. `no_target` "skip" leaves out samples without a target; it is a
    ValueError if none are left, as in a split whose ground truth is not public. `broken` "stop" raises the first thing
    that is wrong with the files; "skip" leaves out what it concerns, and warns.
    """
    read = reader(format)
    for name, chosen, known in (("no_target", no_target, NO_TARGET), ("broken", broken, BROKEN)):
        if chosen not in known:
            raise ValueError(f"data.{name}: {chosen!r} is not one of {', '.join(known)}")
    faults = Faults(collect=broken == "skip")
    samples = read(Path(root).resolve(), split, faults)
    if faults.found:
        log.warning(
            "%s: %d things that are wrong left out, first: %s",
            split,
            len(faults.found),
            next(iter(faults.found)),
        )
    kept = [sample for sample in samples if sample.targets or no_target == "keep"]
    if not kept:
        raise ValueError(
            f"{Path(root) / split}: no sample to use: {len(samples)} expressions, none with a target; "
            "data.no_target=keep keeps those without"
        )
    return kept


def video_objects(format: str, root: str, split: str) -> dict[str, tuple[Target, ...]]:
    """The annotated objects of each video: all that the data set knows of where it lists them (as the synthetic one
    does), or else those that its expressions name."""
    if format == "mevis":
        return mevis.video_objects(Path(root).resolve(), split)
    found: dict[str, dict[str, Target]] = {}
    for sample in reader(format)(Path(root).resolve(), split):
        found.setdefault(sample.video.uid, {}).update(
            {target.uid: target for target in sample.targets}
        )
    return {uid: tuple(targets.values()) for uid, targets in found.items()}


def reader(format: str) -> Reader:
    """The reader of a format (`data.format`)."""
    if format not in READERS:
        raise ValueError(f"data.format: unknown format {format!r}; known: {', '.join(READERS)}")
    return READERS[format]
