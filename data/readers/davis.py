"""Reads Ref-DAVIS17, in its official layout or in the one that ReferFormer's script converts it to.

Official:

    <root>/DAVIS/ImageSets/2017/{train,val}.txt                   names of videos
    <root>/DAVIS/JPEGImages/480p/<video>/<frame>.jpg
    <root>/DAVIS/Annotations_unsupervised/480p/<video>/<frame>.png   palette PNG (not the semi-supervised folder)
    <root>/davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt    lines: video object "sentence"

Two annotators described every object, once from the first frame and once from the whole video: four sentences an
object. The second annotator's files are latin-1, and three names of videos are misspelt. Sentences of a video are
sorted by their object (as text) and numbered object by object: expression = 4 * object + annotator, where annotator is
0 annot1, 1 annot1_full_video, 2 annot2, 3 annot2_full_video. `convert` writes that as the layout of `data.readers.youtube_vos`,
which is read where <root>/meta_expressions is there. Splits: train, valid.

`Sample.kind` is "first_frame" or "full_video"; notes: `object` (its number) and `annotator` (0 to 3).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from core.types import Sample
from data.readers.expressions import Meta
from data.readers.fields import Faults
from data.readers.youtube_vos import categories, expressions, read_layout

TEXTS = (  # annotator 0 to 3
    ("Davis17_annot1.txt", "utf-8"),
    ("Davis17_annot1_full_video.txt", "utf-8"),
    ("Davis17_annot2.txt", "latin-1"),
    ("Davis17_annot2_full_video.txt", "latin-1"),
)
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
SETS = {"train": "train.txt", "valid": "val.txt"}
KINDS = ("first_frame", "full_video")


def read(root: Path, split: str, faults: Faults | None = None) -> list[Sample]:
    """All expressions of a split: in the order of the converted file, or of the official list of videos."""
    root = Path(root)
    faults = faults or Faults()
    if (root / "meta_expressions").is_dir():
        file, videos = expressions(root, split)
        images = root / split / "JPEGImages"
        annotations = root / split / "Annotations"
        objects = categories(root / split / "meta.json", faults)
    else:
        file = root / "davis_text_annotations"
        videos = official(root, split, faults)
        (images, annotations) = _folders(root)
        objects = Meta()
    samples = read_layout(file, videos, [images], annotations, objects, faults)
    return [_with_annotator(sample, faults) for sample in samples]


def official(root: Path, split: str, faults: Faults) -> Meta:
    """{video: {"frames", "expressions"}} of a split, from the four text files."""
    uids = _videos(root, split)
    texts = [
        _sentences(root / "davis_text_annotations" / name, encoding, faults)
        for name, encoding in TEXTS
    ]
    found: Meta = {}
    for uid in uids:
        with faults.noted():
            found[uid] = _video(uid, texts, root)
    return found


def convert(root: Path, out: Path) -> None:
    """Writes the layout of `data.readers.youtube_vos` under `out`, with links to the images and masks of `root`."""
    images, annotations = _folders(root)
    for split in SETS:
        videos = official(root, split, Faults())
        for name, source in (("JPEGImages", images), ("Annotations", annotations)):
            (out / split / name).mkdir(parents=True, exist_ok=True)
            for uid in videos:
                if not (out / split / name / uid).exists():
                    (out / split / name / uid).symlink_to(
                        (source / uid).resolve(), target_is_directory=True
                    )
        file = out / "meta_expressions" / split / "meta_expressions.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"videos": videos}))


def _folders(root: Path) -> tuple[Path, Path]:
    return root / "DAVIS/JPEGImages/480p", root / "DAVIS/Annotations_unsupervised/480p"


def _videos(root: Path, split: str) -> list[str]:
    if split not in SETS:
        raise ValueError(f"Ref-DAVIS17 has the splits {', '.join(SETS)}; there is no {split!r}")
    file = root / "DAVIS/ImageSets/2017" / SETS[split]
    if not file.is_file():
        raise ValueError(
            f"{file} is missing, and so is {root}/meta_expressions/: is the root right (data.root)?"
        )
    return file.read_text("utf-8").split()


def _video(uid: str, texts: list[dict[str, list[tuple[str, str]]]], root: Path) -> Meta:
    """Sentences in the order of the published conversion, which stops at the annotator with the fewest."""
    folder = _folders(root)[0] / uid
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder, but its video is listed: download it, or take it out of the list"
        )
    for (name, _), sentences in zip(TEXTS, texts, strict=True):
        if uid not in sentences:
            raise ValueError(
                f"{root / 'davis_text_annotations' / name}: no sentence for video {uid!r}"
            )
    each = [sorted(sentences[uid], key=lambda pair: pair[0]) for sentences in texts]
    pairs = [pair for one_each in zip(*each, strict=False) for pair in one_each]
    frames = sorted(path.stem for path in folder.glob("*.jpg"))
    return {
        "frames": frames,
        "expressions": {
            str(i): {"exp": sentence, "obj_id": obj} for i, (obj, sentence) in enumerate(pairs)
        },
    }


def _sentences(file: Path, encoding: str, faults: Faults) -> dict[str, list[tuple[str, str]]]:
    """{video: [(object, sentence)]} of one annotator."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: download the text annotations of Ref-DAVIS17")
    found: dict[str, list[tuple[str, str]]] = {}
    for number, line in enumerate(file.read_text(encoding).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        with faults.noted():
            if len(words) < 3 or not words[1].isdigit():
                raise ValueError(
                    f'{file}: line {number} is {line!r:.80}, not: video object "sentence"'
                )
            found.setdefault(MISSPELT.get(words[0], words[0]), []).append(
                (words[1], " ".join(words[2:])[1:-1])
            )
    return found


def _with_annotator(sample: Sample, faults: Faults) -> Sample:
    key = sample.uid.rpartition("/")[2]
    if not key.isdigit():
        faults.report(
            f"{sample.video.path}: expression {key!r} of video {sample.video.uid!r} is not a number"
        )
        return sample
    annotator = int(key) % len(TEXTS)
    notes = replace(sample.notes, annotator=annotator)
    return replace(sample, kind=KINDS[annotator % 2], notes=notes)
