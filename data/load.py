"""Load a split of a data set in any known format.

    samples = load_samples("mevis", "datasets/mevis", "valid_u")

A new format is a reader in `data/readers/`, a row in `READERS`, and its name among the choices of
`data.format` in `configs/schema.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from core.printable import printable
from core.types import Sample, Target
from data.fields import Faults
from data.readers.davis import read_davis
from data.readers.groundmore import read_groundmore
from data.readers.long_rvos import read_long_rvos
from data.readers.mevis import mevis_video_objects, read_lvvis, read_mevis
from data.readers.o3_sft import read_o3_sft
from data.readers.own import read_own
from data.readers.reason_seg import read_reason_seg
from data.readers.reason_vos import read_reason_vos
from data.readers.ref_sav import read_ref_sav
from data.readers.refcoco import read_refcoco
from data.readers.revos import read_revos
from data.readers.vision_reasoner import read_vision_reasoner
from data.readers.vts_cot_and_o3_rl import read_o3_rl, read_vts_cot
from data.readers.youtube_vos import read_youtube_vos


class Reader(Protocol):
    def __call__(
        self,
        root: Path,
        split: str,
        faults: Faults | None = None,
    ) -> list[Sample]:
        """Read a split.

        Args:
            faults: Decides what an error does. Without it, the first error is raised.
        """
        ...


READERS: dict[str, Reader] = {
    "mevis": read_mevis,
    "revos": read_revos,
    "lvvis": read_lvvis,
    "reasonvos": read_reason_vos,
    "longrvos": read_long_rvos,
    "groundmore": read_groundmore,
    "ref_sav": read_ref_sav,
    "ref_youtube_vos": read_youtube_vos,
    "ref_davis17": read_davis,
    "reasonseg": read_reason_seg,
    "refcoco": read_refcoco,
    "visionreasoner": read_vision_reasoner,
    "vts_cot": read_vts_cot,
    "o3_rl": read_o3_rl,
    "o3_sft": read_o3_sft,
    "own": read_own,
}
NO_TARGET = ("skip", "keep")
BROKEN = ("stop", "skip")

log = logging.getLogger(__name__)


def load_samples(
    format: str,
    root: str,
    split: str,
    no_target: str = "skip",
    broken: str = "stop",
) -> list[Sample]:
    """Return the samples of a split.

    Args:
        format: `data.format`.
        root: `data.root`, relative to the current directory or absolute.
        split: Name of the split.
        no_target: `data.no_target`: "skip" leaves out samples without a target, "keep" keeps them.
        broken: "stop" raises the first error in the files, "skip" leaves out the samples with
            errors and warns.

    Raises:
        ValueError: The files have an error, or no sample is left, as in a split without public
            ground truth.
    """
    read = reader_of(format)
    for name, value, allowed in (
        ("no_target", no_target, NO_TARGET),
        ("broken", broken, BROKEN),
    ):
        if value not in allowed:
            raise ValueError(f"data.{name}: {value!r} is not one of {', '.join(allowed)}")

    faults = Faults(collect=broken == "skip")
    samples = read(Path(root).resolve(), split, faults)
    if faults.found:
        first = printable(next(iter(faults.found)))
        log.warning("%s: %d errors, left out; the first: %s", split, len(faults.found), first)

    kept = []
    for sample in samples:
        # A dialogue about another task is whole without a target.
        if sample.targets or sample.notes.task or no_target == "keep":
            kept.append(sample)
    if not kept:
        _refuse_hidden(samples, Path(root) / split)
        raise ValueError(
            f"{Path(root) / split}: no sample to use: {len(samples)} expressions, none with a "
            "target; data.no_target=keep keeps those without"
        )
    return kept


def _refuse_hidden(samples: Sequence[Sample], where: Path) -> None:
    """Raise the error of a split without public truth, if this is one."""
    if samples and all(sample.notes.hidden for sample in samples):
        raise ValueError(
            f"{where}: the truth of all {len(samples)} expressions is not public, so nothing can "
            "be rewarded or measured: give a split with truth, or evaluate with "
            "data.no_target=keep and make the zip for the server with ray_jobs.submission "
            "(evaluate.sets does both)"
        )


def video_objects(format: str, root: str, split: str) -> dict[str, tuple[Target, ...]]:
    """Return the annotated objects of each video, by the uid of the video.

    These are all objects where the data set lists them, as the synthetic one does, else those that
    its expressions name.
    """
    if format == "mevis":
        return mevis_video_objects(Path(root).resolve(), split)

    objects: dict[str, dict[str, Target]] = {}
    for sample in reader_of(format)(Path(root).resolve(), split):
        of_video = objects.setdefault(sample.video.uid, {})
        for target in sample.targets:
            of_video[target.uid] = target
    return {uid: tuple(of_video.values()) for uid, of_video in objects.items()}


def reader_of(format: str) -> Reader:
    """Return the reader of a format (`data.format`)."""
    if format not in READERS:
        raise ValueError(f"data.format: unknown format {format!r}; known: {', '.join(READERS)}")
    return READERS[format]
