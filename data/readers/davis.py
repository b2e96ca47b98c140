"""Read Ref-DAVIS17, in its official layout or as ReferFormer's script converts it.

Official:

    <root>/DAVIS/ImageSets/2017/{train,val}.txt                      names of videos
    <root>/DAVIS/JPEGImages/480p/<video>/<frame>.jpg
    <root>/DAVIS/Annotations_unsupervised/480p/<video>/<frame>.png   palette PNG
    <root>/davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt

A line of the last is: video object "sentence". The masks are not those of the semi-supervised
folder. Converted: the layout of `data.readers.youtube_vos`, recognised by <root>/meta_expressions.

Splits: train, valid. Two annotators described every object, once from the first frame and once from
the whole video: four sentences an object. The second annotator's files are latin-1, and three names
of videos are misspelt. Sentences of a video are sorted by their object (as text) and numbered
object by object: expression = 4 * object + annotator. Annotator 0 is annot1, 1 annot1_full_video,
2 annot2, 3 annot2_full_video.

`Sample.kind` is "first_frame" or "full_video". The notes have `object` (its number), `annotator` (0
to 3) and `void_F`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from core.types import Sample
from data.fields import Faults, inside, read_text
from data.frames.images import stems_in
from data.masks.png_masks import PngMasks
from data.readers.expressions import Meta
from data.readers.youtube_vos import load_categories, load_expressions, read_layout

# Pixels of this value belong to no object, and the official evaluation leaves them out.
VOID = 255
# File and encoding of each annotator's sentences, 0 to 3.
TEXTS = (
    ("Davis17_annot1.txt", "utf-8-sig"),
    ("Davis17_annot1_full_video.txt", "utf-8-sig"),
    ("Davis17_annot2.txt", "latin-1"),
    ("Davis17_annot2_full_video.txt", "latin-1"),
)
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
# Lists of videos by split.
VIDEO_LISTS = {"train": "train.txt", "valid": "val.txt"}
# Kinds of sentences by annotator modulo 2.
KINDS = ("first_frame", "full_video")

# {video: [(object, sentence)]} of one annotator.
Sentences = dict[str, list[tuple[str, str]]]


def read_davis(
    root: Path,
    split: str,
    faults: Faults | None = None,
) -> list[Sample]:
    """Return all expressions of a split.

    Their order is the order of the converted file, or of the official list of videos.
    """
    root = Path(root)
    faults = faults or Faults()
    if (root / "meta_expressions").is_dir():
        file, videos = load_expressions(root, split)
        images = root / split / "JPEGImages"
        annotations = root / split / "Annotations"
        categories = load_categories(root / split / "meta.json", faults)
    else:
        file = root / "davis_text_annotations"
        videos = official_videos(root, split, faults)
        images = images_folder(root)
        annotations = root / "DAVIS/Annotations_unsupervised/480p"
        categories = {}
    samples = read_layout(file, videos, [images], annotations, categories, faults)
    return [_with_annotator(sample, faults) for sample in samples]


def images_folder(root: Path) -> Path:
    """Return the folder of the official frames."""
    return root / "DAVIS/JPEGImages/480p"


def official_videos(root: Path, split: str, faults: Faults) -> Meta:
    """Return {video: {"frames", "expressions"}} of a split, from the four text files."""
    uids = _listed_videos(root, split)
    folder = root / "davis_text_annotations"
    sentences = [_sentences(folder / name, encoding, faults) for name, encoding in TEXTS]
    videos: Meta = {}
    for uid in uids:
        with faults.noted():
            videos[uid] = _official_video(uid, sentences, root)
    return videos


def _listed_videos(root: Path, split: str) -> list[str]:
    if split not in VIDEO_LISTS:
        splits = ", ".join(VIDEO_LISTS)
        raise ValueError(f"Ref-DAVIS17 has the splits {splits}; there is no {split!r}")
    file = root / "DAVIS/ImageSets/2017" / VIDEO_LISTS[split]
    if not file.is_file():
        raise ValueError(
            f"{file} is missing, and so is {root}/meta_expressions/: is the root right (data.root)?"
        )
    return read_text(file, "utf-8-sig").split()


def _official_video(uid: str, sentences_of: list[Sentences], root: Path) -> Meta:
    """Return the entry of one video, with sentences ordered as in the published conversion."""
    inside(uid, str(images_folder(root)), "a listed video")
    folder = images_folder(root) / uid
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder, but its video is listed: download it, or take it out of "
            "the list"
        )
    for (name, _), sentences in zip(TEXTS, sentences_of, strict=True):
        if uid not in sentences:
            file = root / "davis_text_annotations" / name
            raise ValueError(f"{file}: no sentence for video {uid!r}")

    by_object = []
    for sentences in sentences_of:
        by_object.append(sorted(sentences[uid], key=lambda pair: pair[0]))

    expressions: Meta = {}
    # The published conversion stops at the annotator with the fewest sentences.
    for of_object in zip(*by_object, strict=False):
        for obj, sentence in of_object:
            expressions[str(len(expressions))] = {"exp": sentence, "obj_id": obj}
    frames = sorted(stems_in(folder, ".jpg"))
    return {"frames": frames, "expressions": expressions}


def _sentences(file: Path, encoding: str, faults: Faults) -> Sentences:
    """Read the sentences of one annotator."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: download the text annotations of Ref-DAVIS17")
    lines = read_text(file, encoding).splitlines()
    sentences: Sentences = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        with faults.noted():
            if len(words) < 3 or not words[1].isdecimal():
                raise ValueError(
                    f'{file}: line {number} is {line!r:.80}, not: video object "sentence"'
                )
            uid = MISSPELT.get(words[0], words[0])
            # Without the quotation marks.
            sentence = " ".join(words[2:])[1:-1]
            sentences.setdefault(uid, []).append((words[1], sentence))
    return sentences


def _with_annotator(sample: Sample, faults: Faults) -> Sample:
    key = sample.uid.rpartition("/")[2]
    if not key.isdecimal():
        faults.report(
            f"{sample.video.path}: expression {key!r} of video {sample.video.uid!r} is not a number"
        )
        return sample
    annotator = int(key) % len(TEXTS)
    notes = replace(sample.notes, annotator=annotator)
    if sample.targets and isinstance(sample.targets[0].masks_F, PngMasks):
        notes = replace(notes, void_F=replace(sample.targets[0].masks_F, label=VOID))
    return replace(sample, kind=KINDS[annotator % 2], notes=notes)
