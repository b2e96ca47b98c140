"""The steps of `ray_jobs.prepare` on one split: each reads what is there, and adds its file and its problems.

A step leaves out the videos that a step before it found broken, so that one bad video never costs the others. Finished
videos stand in a journal, so a step that was killed goes on with the rest. This file starts no cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from actors.prepare import Piece, Result, check, in_judges, in_tasks, pieces, tables
from cluster.placement import Placement
from configs.schema import Config
from core.files import write_json
from core.types import Sample
from data.prepare.check import read_all
from data.prepare.keep import Judged, keep_content
from data.prepare.statistics import rows, statistics
from data.prepare.tables import VERSION, Key, TargetTable, from_plain, load, save, to_plain
from data.prepare.tables import fingerprint as made_from
from data.prepare.verify import Problem, media_under
from ray_jobs.record.contact_sheet import choose, row, stack
from ray_jobs.record.journal import Journal, fingerprint_of
from ray_jobs.record.progress import Progress

Work = Callable[[Sequence[Piece]], Iterator[tuple[Piece, Result]]]
SAY_S = 30.0  # between two lines about a long step
ANNOTATIONS = (
    "*.json",
    "{split}/*.json",
    "*/meta_expressions*.json",
    "meta_expressions/{split}/*.json",
)


@dataclass
class Split:
    """One split while it is prepared; its files go to `folder`."""

    cfg: Config
    placement: Placement
    name: str
    folder: Path
    progress: Progress
    samples: list[Sample] = field(default_factory=list)
    tables: dict[Key, TargetTable] | None = None
    _problems: dict[str, Problem] = field(default_factory=dict)  # by their text, in order

    @property
    def problems(self) -> list[Problem]:
        return list(self._problems.values())

    def read(self) -> None:
        """All samples that can be read, and what is wrong with the others."""
        data = self.cfg.data
        self.samples, texts = read_all(data.format, data.root, self.name)
        self._problems = {}
        self.tell([Problem("", text) for text in texts])

    def tell(self, problems: Sequence[Problem]) -> None:
        """Adds what is not known yet."""
        for problem in problems:
            self._problems.setdefault(problem.text, problem)

    @property
    def good(self) -> list[Piece]:
        """The videos about which nothing is known to be wrong."""
        bad = {problem.video for problem in self.problems if not problem.odd}
        return [piece for piece in pieces(self.samples) if piece.video.uid not in bad]

    def fingerprint(self, *more: Any) -> str:
        """Of what tables and judgements are made from; where masks are images, only of the names of these."""
        root = Path(self.cfg.data.root)
        files = {
            path for pattern in ANNOTATIONS for path in root.glob(pattern.format(split=self.name))
        }
        stats = sorted(
            (str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns)
            for f in files
            if f.is_file()
        )
        found = pieces(self.samples)
        videos = (
            [p.video.uid, p.video.frame_names, p.video.height, p.video.width, *p.targets]
            for p in found
        )
        return fingerprint_of([more, stats, *videos])


def check_step(split: Split) -> None:
    """Every frame and every mask; once it is through, the next run begins anew.

    Where no annotation can be read, the images and videos of the split's folder are decoded all the same.
    """
    loose = [] if split.samples else media_under(Path(split.cfg.data.root) / split.name)
    waiting = pieces(split.samples) or [Piece(video, ()) for video in loose]
    with Journal.open(split.folder / "check.jsonl", split.fingerprint("check")) as journal:
        _each(
            split,
            journal,
            partial(in_tasks, split.cfg, split.placement, check),
            waiting,
            "frames and masks",
        )
        journal.remove()


def tables_step(split: Split) -> dict[Key, TargetTable]:
    """tables.npz, made if it is not there or was made from something else."""
    if split.tables is None:
        split.tables = _tables(split)
    return split.tables


def _tables(split: Split) -> dict[Key, TargetTable]:
    file = split.folder / "tables.npz"
    fingerprint = split.fingerprint("tables", VERSION)
    if file.exists() and made_from(file) == fingerprint:
        return load(file)
    with Journal.open(split.folder / "tables.jsonl", fingerprint) as journal:
        _each(
            split,
            journal,
            partial(in_tasks, split.cfg, split.placement, tables),
            split.good,
            "boxes and points",
        )
        good = split.good
        found = [
            from_plain(table) for piece in good for table in journal.done[piece.video.uid]["made"]
        ]
        # Tables without the broken videos are made again by the next run: these may be mended by then.
        save(file, found, fingerprint if len(good) == len(pieces(split.samples)) else "incomplete")
        journal.remove()
    return {table.key: table for table in found}


def filter_step(split: Split) -> None:
    """keep.json. The judgements stay in filter.jsonl: another threshold costs nothing."""
    chosen = split.cfg.segmenter
    threshold = split.cfg.prepare.filter_iou
    segmenter = {"kind": chosen.kind, "path": chosen.path, "config": chosen.config}
    with Journal.open(
        split.folder / "filter.jsonl", split.fingerprint("filter", segmenter)
    ) as journal:
        _each(
            split,
            journal,
            partial(in_judges, split.cfg, split.placement),
            split.good,
            "label filter",
        )
        judged = [Judged(**journal.done[piece.video.uid]["made"]) for piece in split.good]
    about = {"format": split.cfg.data.format, "split": split.name, "segmenter": segmenter}
    content = keep_content(judged, threshold, about, split.samples)
    write_json(split.folder / "keep.json", content)
    kept, dropped, broken = (len(content[key]) for key in ("keep", "drop", "broken"))
    split.progress.note(
        f"{split.name}: label filter keeps {kept} videos (mean IoU at least {threshold}), drops {dropped}"
        + (f", and leaves out {broken} broken ones" if broken else "")
    )
    if not kept:
        split.tell(
            [
                Problem(
                    "", f"label filter: no video is kept; is {chosen.path} trained for such frames?"
                )
            ]
        )


def statistics_step(split: Split) -> None:
    found = statistics(split.samples, tables_step(split))
    write_json(split.folder / "statistics.json", found)
    split.progress.table(f"{split.name} of {split.cfg.data.root}", rows(found))


def sheet_step(split: Split) -> None:
    """contact_sheet.jpg, of videos that are not broken."""
    prepare = split.cfg.prepare
    made = tables_step(split)
    chosen = choose(
        [s for piece in split.good for s in piece.samples], prepare.sheet_rows, split.cfg.seed
    )
    lines = []
    with split.progress.phase(f"{split.name}: contact sheet", total=len(chosen)) as phase:
        for sample in chosen:
            try:
                lines.append(row(sample, made, prepare.sheet_frames))
            except ValueError as error:
                split.tell([Problem(sample.video.uid, str(error))])
            phase.advance()
    if lines:
        Image.fromarray(stack(lines)).save(split.folder / "contact_sheet.jpg", quality=90)


STEPS: dict[str, Callable[[Split], Any]] = {  # in this order
    "check": check_step,
    "tables": tables_step,
    "filter": filter_step,
    "statistics": statistics_step,
    "sheet": sheet_step,
}


def _each(split: Split, journal: Journal, work: Work, waiting: Sequence[Piece], title: str) -> None:
    """`work` on every piece that the journal has not, or has with problems; problems go to the split."""
    left = [
        p
        for p in waiting
        if p.video.uid not in journal.done or journal.done[p.video.uid]["problems"]
    ]
    before = len(waiting) - len(left)
    if before:
        split.progress.note(
            f"{split.name}: {title}: {before} of {len(waiting)} videos were done before"
        )
    with split.progress.phase(f"{split.name}: {title}", total=len(waiting)) as phase:
        phase.advance(before)
        said = time.monotonic()
        for piece, (made, problems) in work(left):
            journal.add(
                piece.video.uid, {"made": _plain(made), "problems": [asdict(p) for p in problems]}
            )
            split.tell(problems)
            phase.advance()
            if time.monotonic() - said > SAY_S:
                split.progress.note(f"{phase.name}: {phase.done:g} of {len(waiting)} videos")
                said = time.monotonic()


def _plain(made: Any) -> Any:
    if isinstance(made, list):
        return [to_plain(table) for table in made]
    return None if made is None else asdict(made)
