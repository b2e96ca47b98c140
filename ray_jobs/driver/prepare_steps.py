"""The steps of `ray_jobs.prepare` on one split.

Each step adds its file and its problems. It skips the videos found broken by an earlier step: one
bad video never costs the others. Finished videos are in a journal, so a killed step continues with
the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from actors.prepare import VideoPiece, VideoResult, check, in_judges, in_tasks, pieces, tables
from actors.setup import make_system, system_message
from cluster.placement import Placement
from configs.load import resolve
from configs.schema import Config
from core.files import write_json
from core.types import Sample
from data.bounds import allow_pixels
from data.memory import bounded
from data.prepare.check import read_all
from data.prepare.keep import Judged, keep_content
from data.prepare.statistics import rows, statistics
from data.prepare.tables import (
    VERSION,
    TableKey,
    TargetTable,
    load_tables,
    made_from,
    save_tables,
    table_from_json,
    table_to_json,
)
from data.prepare.verify import Problem, media_under, short
from models.dialogue import load_dialogue
from ray_jobs.driver.fit import too_long
from ray_jobs.record.contact_sheet import choose_samples, sheet_row, stack_rows
from ray_jobs.record.journal import Journal, fingerprint_of
from ray_jobs.record.progress import Progress

# A function that works on every piece and yields results as they arrive.
WorkOnVideos = Callable[[Sequence[VideoPiece]], Iterator[tuple[VideoPiece, VideoResult]]]

# Seconds between two lines about a long step.
SAY_S = 30.0
# Annotation files of all data formats, below `data.root`.
ANNOTATIONS = (
    "*.json",
    "{split}/*.json",
    "*/meta_expressions*.json",
    "meta_expressions/{split}/*.json",
    "ref_sav_eval/*.json",
    "data/{split}-*.parquet",
    "{split}/*.arrow",
    "glamm_data/annotations/*.json",
    "video_datas/chat_univi/*.json",
    "VTG/*/*.jsonl",
)


@dataclass
class PreparedSplit:
    """One split while it is prepared.

    Attributes:
        cfg: The configuration.
        placement: The devices of the actors.
        name: The name of the split.
        folder: The folder of its files.
        progress: The display.
        samples: All readable samples; filled by `read`.
        tables: The tables of its targets; filled by `tables_step`.
    """

    cfg: Config
    placement: Placement
    name: str
    folder: Path
    progress: Progress
    samples: list[Sample] = field(default_factory=list)
    tables: dict[TableKey, TargetTable] | None = None
    # By their text, in the order in which they were found.
    _problems: dict[str, Problem] = field(default_factory=dict)

    @property
    def problems(self) -> list[Problem]:
        return list(self._problems.values())

    def read(self) -> None:
        """Read the samples; unreadable ones become problems."""
        data = self.cfg.data
        allow_pixels(data.max_pixels)
        with bounded(self.cfg.prepare.memory_mb):
            self.samples, texts = read_all(data.format, data.root, self.name)
        self._problems = {}
        self.add_problems([Problem("", text) for text in texts])

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Add problems; known ones are not added again."""
        for problem in problems:
            self._problems.setdefault(problem.text, problem)

    @property
    def good(self) -> list[VideoPiece]:
        """The videos without a known problem; oddities do not count."""
        bad = {problem.video for problem in self.problems if not problem.odd}
        return [piece for piece in pieces(self.samples) if piece.video.uid not in bad]

    def fingerprint(self, *more: Any) -> str:
        """Return a short name for the sources of tables and judgements.

        It covers names, sizes and times of the annotation files, and all videos and targets. Where
        masks are images, only their names are covered.
        """
        root = Path(self.cfg.data.root)
        files: set[Path] = set()
        for pattern in ANNOTATIONS:
            files.update(root.glob(pattern.format(split=self.name)))
        states = []
        for file in files:
            if file.is_file():
                name = str(file.relative_to(root))
                state = file.stat()
                states.append((name, state.st_size, state.st_mtime_ns))

        videos = []
        for piece in pieces(self.samples):
            video = piece.video
            entry = [video.uid, video.frame_names, video.height, video.width]
            videos.append([*entry, *piece.targets])
        return fingerprint_of([more, sorted(states), *videos])


def check_step(split: PreparedSplit) -> None:
    """Decode every frame and every mask. After a complete check the next run starts from nothing.

    Without any readable annotation the images and videos of the split's folder are decoded.
    """
    waiting = pieces(split.samples)
    if not split.samples:
        videos = media_under(Path(split.cfg.data.root) / split.name)
        waiting = [VideoPiece(video, ()) for video in videos]
    work = partial(in_tasks, split.cfg, split.placement, check)
    with Journal.open(split.folder / "check.jsonl", split.fingerprint("check")) as journal:
        work_through(split, journal, work, waiting, "frames and masks")
        journal.remove()


def fit_step(split: PreparedSplit) -> None:
    """Name the expressions whose prompt leaves no room for an answer; training sets them aside."""
    cfg = split.cfg
    folder = resolve(cfg.policy.path)
    if not (folder / "config.json").is_file():
        split.progress.note(
            f"{split.name}: fit is left out: policy.path={cfg.policy.path} has no config.json"
        )
        return
    with split.progress.phase(f"{split.name}: prompts"):
        limit = cfg.rollout.max_model_len
        dialogue = load_dialogue(folder, system_message(cfg))
        found = too_long(dialogue, make_system(cfg), split.samples, limit)
    videos = {sample.uid: sample.video.uid for sample in split.samples}
    for uid, reason in found.items():
        split.add_problems([Problem(videos[uid], f"expression {uid!r}: {reason}", odd=True)])


def tables_step(split: PreparedSplit) -> dict[TableKey, TargetTable]:
    """Return the tables of tables.npz, made anew if the file is missing or outdated."""
    if split.tables is None:
        split.tables = _load_or_make_tables(split)
    return split.tables


def _load_or_make_tables(split: PreparedSplit) -> dict[TableKey, TargetTable]:
    file = split.folder / "tables.npz"
    fingerprint = split.fingerprint("tables", VERSION)
    if file.exists() and made_from(file) == fingerprint:
        return load_tables(file)

    work = partial(in_tasks, split.cfg, split.placement, tables)
    with Journal.open(split.folder / "tables.jsonl", fingerprint) as journal:
        work_through(split, journal, work, split.good, "boxes and points")
        good = split.good
        made = []
        for piece in good:
            for table in journal.done[piece.video.uid]["made"]:
                made.append(table_from_json(table))
        # Broken videos may be mended before the next run, so tables without them are made again.
        if len(good) < len(pieces(split.samples)):
            fingerprint = "incomplete"
        save_tables(file, made, fingerprint)
        journal.remove()
    return {table.key: table for table in made}


def filter_step(split: PreparedSplit) -> None:
    """Write keep.json. Judgements stay in filter.jsonl, so another threshold costs nothing."""
    cfg = split.cfg
    chosen = cfg.segmenter
    threshold = cfg.prepare.filter_iou
    segmenter = {"kind": chosen.kind, "path": chosen.path, "config": chosen.config}
    fingerprint = split.fingerprint("filter", segmenter)
    work = partial(in_judges, cfg, split.placement)
    judged = []
    with Journal.open(split.folder / "filter.jsonl", fingerprint) as journal:
        work_through(split, journal, work, split.good, "label filter")
        for piece in split.good:
            judged.append(Judged(**journal.done[piece.video.uid]["made"]))

    about = {"format": cfg.data.format, "split": split.name, "segmenter": segmenter}
    content = keep_content(judged, threshold, about, split.samples)
    write_json(split.folder / "keep.json", content)

    kept = len(content["keep"])
    broken = len(content["broken"])
    summary = (
        f"{split.name}: label filter keeps {kept} videos (mean IoU at least {threshold}), "
        f"drops {len(content['drop'])}"
    )
    if broken:
        summary += f", and leaves out {broken} broken ones"
    split.progress.note(summary)
    if not kept:
        text = f"label filter: no video is kept; is {chosen.path} trained for such frames?"
        split.add_problems([Problem("", text)])


def statistics_step(split: PreparedSplit) -> None:
    """Write statistics.json and show it."""
    found = statistics(split.samples, tables_step(split))
    write_json(split.folder / "statistics.json", found)
    split.progress.table(f"{split.name} of {split.cfg.data.root}", rows(found))


def sheet_step(split: PreparedSplit) -> None:
    """Write contact_sheet.jpg, without broken videos."""
    prepare = split.cfg.prepare
    made = tables_step(split)
    samples: list[Sample] = []
    for piece in split.good:
        samples += piece.samples
    chosen = choose_samples(samples, prepare.sheet_rows, split.cfg.seed)
    lines = []
    with split.progress.phase(f"{split.name}: contact sheet", total=len(chosen)) as phase:
        for sample in chosen:
            try:
                lines.append(sheet_row(sample, made, prepare.sheet_frames))
            # A sheet is for people to look at: what cannot be shown is told, like all the rest.
            except Exception as error:
                split.add_problems([Problem(sample.video.uid, short(error))])
            phase.advance()
    if lines:
        image = Image.fromarray(stack_rows(lines))
        image.save(split.folder / "contact_sheet.jpg", quality=90)


# The steps by their word in `prepare.steps`, in the order in which they run.
STEPS: dict[str, Callable[[PreparedSplit], Any]] = {
    "check": check_step,
    "fit": fit_step,
    "tables": tables_step,
    "filter": filter_step,
    "statistics": statistics_step,
    "sheet": sheet_step,
}


def work_through(
    split: PreparedSplit,
    journal: Journal,
    work: WorkOnVideos,
    waiting: Sequence[VideoPiece],
    title: str,
) -> None:
    """WorkOnVideos on every piece without a result in the journal, or with problems there.

    Results go to the journal, problems to the split.
    """
    left = []
    for piece in waiting:
        done = journal.done.get(piece.video.uid)
        if done is None or done["problems"]:
            left.append(piece)
    before = len(waiting) - len(left)
    progress = split.progress
    if before:
        progress.note(f"{split.name}: {title}: {before} of {len(waiting)} videos were done before")

    with progress.phase(f"{split.name}: {title}", total=len(waiting)) as phase:
        phase.advance(before)
        said = time.monotonic()
        for piece, (made, problems) in work(left):
            plain_problems = [asdict(problem) for problem in problems]
            result = {"made": _plain(made), "problems": plain_problems}
            journal.add(piece.video.uid, result)
            split.add_problems(problems)
            phase.advance()
            if time.monotonic() - said > SAY_S:
                progress.note(f"{phase.name}: {phase.done:g} of {len(waiting)} videos")
                said = time.monotonic()


def _plain(made: Any) -> Any:
    """Return a result of `work` ready for JSON."""
    if made is None:
        return None
    if isinstance(made, list):
        return [table_to_json(table) for table in made]
    return asdict(made)
