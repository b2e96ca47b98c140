"""Read the parts of VideoSEG-O3's SFT mixture that do not ask for objects: QA, VTG and GCG.

`root` is the release's folder `data/`, and a split is one part of the mixture:

    video_qa        video_datas/chat_univi/video_chat.json, Activity_Videos/
                    [{"video", "conversations": [{"from": "human" or "gpt", "value"}]}]
    vtg             VTG/TimeLens-100K/timelens-100k.jsonl, video/ (or videos/)
                    {"video_path", "events": [{"query", "span": [[start, stop]]}]} a line;
                    seconds
    gcg_grandf, gcg_openpsg, gcg_refcocog, gcg_flickr30k
                    glamm_data/annotations/, glamm_data/images/ (`data.masks.grounded_captions`)

The rest of the mixture has readers of its own: refcoco, revos, mevis, ref_youtube_vos, ref_sav and
longrvos. Every sample is a dialogue in the notes (`conversations`), about another `task` than
finding targets, and serves warm starts alone. `Sample.kind` is the task:

    qa     the questions and answers of the data; a sample is a whole dialogue
    vtg    the span of one event, {"start_frame", "end_frame"}, both inside it. The release counts
           in tenths of a second and asks for five events in one dialogue; here frames are those of
           the video, and a sample is an event. Seconds beyond the video are cut off, as released.
    gcg    the caption with "<p> phrase </p> [SEG]" for each masked phrase; the targets are in this
           order. Phrases inside others are left out (chosen by this project).

The number of frames and the rate of a video are in its file alone, so each is opened once; what was
found is kept beside the list (".videos.json").

Sources: Dmmm1997/VideoSEG-O3, projects/sa2va/configs/videoseg_o3 and projects/sa2va/datasets
(licences: of the data sets themselves, not seen).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.types import Notes, Sample, Target, Video
from data.bounds import MAX_LINE, check_outline
from data.derived import KnownFacts
from data.fields import Faults, inside, load_json, parsed_json, value
from data.frames.decoders import facts
from data.frames.images import first_file, image_size
from data.masks.grounded_captions import Caption, Phrase, PolygonMasks, read_captions
from data.masks.stores import ListedFrames, RleStore

SEG = "[SEG]"
CAPTION_QUERY = "what the image shows"
GLAMM = "glamm_data/annotations"


class Part(NamedTuple):
    """A part of the mixture: its list, the possible folders of its media, and the kind of list."""

    file: str
    media: tuple[str, ...]
    kind: str = ""


PARTS = {
    "video_qa": Part(
        "video_datas/chat_univi/video_chat.json", ("video_datas/chat_univi/Activity_Videos",)
    ),
    "vtg": Part(
        "VTG/TimeLens-100K/timelens-100k.jsonl",
        ("VTG/TimeLens-100K/video", "VTG/TimeLens-100K/videos"),
    ),
    "gcg_grandf": Part(
        f"{GLAMM}/GranDf_HA_GCG_train.json", ("glamm_data/images/grandf/train",), "groundings"
    ),
    "gcg_openpsg": Part(
        f"{GLAMM}/OpenPsgGCG_train.json", ("glamm_data/images/coco2017",), "groundings"
    ),
    "gcg_refcocog": Part(
        f"{GLAMM}/RefCOCOg_GCG_train.json", ("glamm_data/images/coco2014/train2014",), "refs"
    ),
    "gcg_flickr30k": Part(
        f"{GLAMM}/flickr_mergedGT_GCG_train.json",
        ("glamm_data/images/flickr30k/Flickr30K",),
        "sam_masks",
    ),
}


def read_o3_sft(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all dialogues of a part of the mixture in the order of its list.

    `uid` is "<video or image>/<place in the list>", for an event with its place in the video.
    """
    root = Path(root)
    faults = faults or Faults()
    if split not in PARTS:
        raise ValueError(
            f"{root}: {split!r} is not a part of the mixture; it has {', '.join(PARTS)}"
        )
    part = PARTS[split]
    file = root / part.file
    folder = _media_folder(root, part)
    if part.kind:
        return _read_captions(file, folder, part.kind, faults)
    if split == "vtg":
        return _read_videos(file, folder, _lines(file, faults), _events, faults)
    items = enumerate(load_json(file, list))
    return _read_videos(file, folder, items, _questions, faults)


def _media_folder(root: Path, part: Part) -> Path:
    for name in part.media:
        if (root / name).is_dir():
            return root / name
    raise ValueError(
        f"{root}: there is no folder {' or '.join(part.media)}: data.root is the folder data/ of "
        "VideoSEG-O3's release"
    )


def _lines(file: Path, faults: Faults) -> Iterator[tuple[int, Any]]:
    """Yield the place and value of each line of JSON."""
    if not file.is_file():
        raise ValueError(
            f"{file} is missing: is the data set complete, and its root right (data.root)?"
        )
    with open(file, "rb") as lines:
        for place, line in enumerate(iter(partial(lines.readline, MAX_LINE + 1), b"")):
            if not line.strip():
                continue
            if len(line) > MAX_LINE:
                raise ValueError(
                    f"{file}: line {place + 1} has more than {MAX_LINE} bytes: download it again"
                )
            try:
                item = parsed_json(line)
            except ValueError as error:
                faults.report(f"{file}: line {place + 1} is not JSON ({error}): download it again")
                continue
            yield place, item


# A video and its frames a second.
Timed = tuple[Video, Fraction]
# A dialogue: its name within an item, and its turns.
Named = tuple[str, list[dict[str, str]]]
# Returns the dialogues of an item.
Dialogues = Callable[[Any, Timed, str], list[Named]]


def _read_videos(
    file: Path,
    folder: Path,
    items: Any,
    dialogues: Dialogues,
    faults: Faults,
) -> list[Sample]:
    known = KnownFacts(file, ".videos.json", _video_facts)
    task: Literal["qa", "vtg"] = "vtg" if dialogues is _events else "qa"
    samples: list[Sample] = []
    try:
        for place, item in items:
            with faults.noted():
                where = f"{file}: item {place}"
                key = "video_path" if task == "vtg" else "video"
                timed = _video(item, key, folder, known, where)
                for name, turns in dialogues(item, timed, where):
                    uid = f"{timed[0].uid}/{place}{name}"
                    notes = Notes(hidden=True, conversations=tuple(turns), task=task)
                    samples.append(Sample(uid, timed[0], turns[0]["value"], (), task, notes))
    finally:
        known.save()
    return samples


def _video_facts(path: str) -> list[int]:
    """Return frames, height, width and the rate as a fraction, of a video file."""
    found = facts(path)
    return [found["frames"], found["height"], found["width"], *found["rate"]]


def _video(item: Any, key: str, folder: Path, known: KnownFacts, where: str) -> Timed:
    name = inside(value(item, key, str, where), where, f'"{key}"')
    path = folder / name
    # Some lists name the file as it was before a conversion.
    if not path.is_file() and path.suffix == ".mkv":
        path = path.with_suffix(".mp4")
    if not path.is_file():
        raise ValueError(
            f'{where}: "{key}": {path} is missing: download it, or take it out of the list'
        )
    frames, height, width, *rate = known.of(str(path))
    if not frames:
        raise ValueError(f"{path}: the video has no frame: download it again")
    names = tuple(f"{index:05d}" for index in range(frames))
    return Video(name, str(path), names, height, width), Fraction(*rate)


def _questions(item: Any, timed: Timed, where: str) -> list[Named]:
    """Return the one dialogue of an item of the video QA list."""
    turns: list[dict[str, str]] = []
    for i, turn in enumerate(value(item, "conversations", list, where)):
        its = f"{where}: conversations: turn {i}"
        expected = ("human", "gpt")[i % 2]
        if value(turn, "from", str, its) != expected:
            raise ValueError(
                f'{its}: "from" is {turn["from"]!r:.60}, not {expected}: they alternate'
            )
        text = value(turn, "value", str, its).replace("<video>", "").replace("<image>", "").strip()
        if not text:
            raise ValueError(f'{its}: "value" has no words')
        turns.append({"from": expected, "value": text})
    if not turns or len(turns) % 2:
        raise ValueError(
            f"{where}: conversations: {len(turns)} turns: every question needs an answer"
        )
    return [("", turns)]


def _events(item: Any, timed: Timed, where: str) -> list[Named]:
    """Return a dialogue for each event of a line of TimeLens-100K."""
    dialogues = []
    for i, event in enumerate(value(item, "events", list, where)):
        its = f"{where}: event {i}"
        query = value(event, "query", str, its).strip()
        if not query:
            raise ValueError(f'{its}: "query" has no words')
        start, end = _frames_of_span(event, timed, its)
        answer = json.dumps({"start_frame": start, "end_frame": end})
        turns = [{"from": "human", "value": query}, {"from": "gpt", "value": answer}]
        dialogues.append((f"-{i}", turns))
    return dialogues


def _frames_of_span(event: Any, timed: Timed, where: str) -> tuple[int, int]:
    """Return the first and the last frame of an event; only its first span counts, as released."""
    spans = value(event, "span", list, where)
    span: Any = spans[0] if spans else None
    is_pair = isinstance(span, list) and len(span) == 2
    if not is_pair or not all(_is_time(second) for second in span):
        raise ValueError(f'{where}: "span" is {spans!r:.60}, not [[start, stop]] in seconds')
    video, rate = timed
    last = video.num_frames - 1
    start = min(math.floor(span[0] * rate), last)
    end = min(math.floor(span[1] * rate), last)
    return start, max(start, end)


def _is_time(second: Any) -> bool:
    is_number = isinstance(second, int | float) and not isinstance(second, bool)
    return is_number and math.isfinite(second) and second >= 0


def _read_captions(file: Path, folder: Path, kind: str, faults: Faults) -> list[Sample]:
    store = RleStore(file, kind)
    samples: list[Sample] = []
    for caption in read_captions(file, kind, faults):
        with faults.noted():
            where = f"{file}: item {caption.place}"
            samples.append(_sample_of_caption(caption, folder, store, where))
    return samples


def _sample_of_caption(caption: Caption, folder: Path, store: RleStore, where: str) -> Sample:
    name = inside(caption.image, where, "the name of its image")
    path = folder / name
    image = first_file(str(path.with_suffix("")))
    if image is None:
        raise ValueError(f"{path} is missing: {where} names it: download the images again")
    height, width = image_size(image)
    uid = name.removesuffix(path.suffix)
    video = Video(uid, str(image.parent), (image.stem,), height, width)

    frames = ListedFrames(uid, video.frame_names, (height, width))
    targets = []
    for phrase in caption.phrases:
        targets.append(_target(phrase, frames, store, f"{uid}/{caption.place}", where))
    turns = (
        {"from": "human", "value": CAPTION_QUERY},
        {"from": "gpt", "value": _with_segs(caption)},
    )
    notes = Notes(conversations=turns, task="gcg")
    return Sample(f"{uid}/{caption.place}", video, CAPTION_QUERY, tuple(targets), "gcg", notes)


def _target(phrase: Phrase, frames: ListedFrames, store: RleStore, uid: str, where: str) -> Target:
    if phrase.key:
        return store.target(frames, phrase.key, where)
    assert frames.size is not None
    for polygon in phrase.polygons:
        check_outline(polygon, *frames.size, f'{where}: "segmentation"')
    return Target(f"{uid}-{phrase.start}", PolygonMasks(phrase.polygons, *frames.size))


def _with_segs(caption: Caption) -> str:
    """Return the caption with its phrases marked, and the token of a mask behind each."""
    parts = []
    at = 0
    for phrase in caption.phrases:
        parts.append(caption.text[at : phrase.start])
        parts.append(f"<p> {caption.text[phrase.start : phrase.stop]} </p> {SEG}")
        at = phrase.stop
    return "".join([*parts, caption.text[at:]])
