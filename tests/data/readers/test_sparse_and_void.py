"""Labels that say nothing: frames without a mask, and pixels of no object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.evaluation.protocols import measure
from core.masks import decode, encode
from core.types import Sample
from data.frames.probing import probe
from data.frames.reading import read_frames
from data.labelled import on_labelled_frames
from data.load import load_samples
from data.masks.png_masks import PngMasks, _masks
from data.prepare.verify import oddities, problems_of_video
from tests.data.fixtures import FIXTURES, dump
from tiny.world.clip import write_clip

HEIGHT = 24
WIDTH = 32
FRAMES = 16
LABELLED = (0, 8, 13)


def sparse_set(root: Path, **words: Any) -> list[Sample]:
    """Return the samples of a video of 16 frames with masks on three of them."""
    (root / "v").mkdir()
    (root / "m").mkdir()
    for frame in range(FRAMES):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "v" / f"{frame:05d}.jpg")
    for frame in LABELLED:
        mask = Image.new("L", (WIDTH, HEIGHT))
        mask.paste(255, (4, 4, 12, 12))
        mask.save(root / "m" / f"{frame:05d}.png")
    expressions = [{"exp": "the dog", "objects": ["dog"]}]
    entry = {"path": "v", "objects": {"dog": "m"}, "expressions": expressions, **words}
    dump(root / "val.json", {"videos": {"v": entry}})
    return load_samples("own", str(root), "val")


def test_an_empty_answer_to_sparse_masks_is_worth_nothing(tmp_path: Path) -> None:
    [sample] = sparse_set(tmp_path, without_mask="not labelled")
    assert sample.notes.frames_listed == ("00000", "00008", "00013")
    empty = measure(sample, [None] * FRAMES)
    assert empty.scores["J&F"] == 0
    right = measure(sample, [sample.targets[0].masks_F[0]] * FRAMES)
    assert right.scores["J&F"] == 1
    assert list(oddities([sample])) == []


def test_prepare_says_that_masks_are_sparse(tmp_path: Path) -> None:
    [sample] = sparse_set(tmp_path)
    assert measure(sample, [None] * FRAMES).scores["J&F"] == pytest.approx(13 / 16)
    [text] = oddities([sample])
    assert "masks on 3 of 16 frames" in text
    assert '"without_mask": "not labelled"' in text


def test_training_plays_on_labelled_frames_alone(tmp_path: Path) -> None:
    [sample] = on_labelled_frames(sparse_set(tmp_path, without_mask="not labelled"))
    assert sample.video.frame_names == ("00000", "00008", "00013")
    assert all(sample.targets[0].masks_F)
    assert sample.notes.frames_listed is None


def test_labelled_frames_of_a_video_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4", 1, group=5)
    whole = probe(tmp_path / "v.mp4")
    masks: list[Any] = [None] * whole.num_frames
    for frame in (3, 17):
        masks[frame] = encode(np.ones((whole.height, whole.width), bool))
    entry = {
        "path": "v.mp4",
        "objects": {"dog": masks},
        "expressions": [{"exp": "the dog", "objects": ["dog"]}],
        "without_mask": "not labelled",
    }
    dump(tmp_path / "val.json", {"videos": {"v": entry}})
    [sample] = on_labelled_frames(load_samples("own", str(tmp_path), "val"))
    assert sample.video.frame_names == ("00003", "00017")
    assert tuple(sample.targets[0].masks_F) == (masks[3], masks[17])
    expected = read_frames(whole, [3, 17])
    np.testing.assert_array_equal(read_frames(sample.video, [0, 1]), expected)
    assert problems_of_video(sample.video, [sample]) == []


@pytest.mark.parametrize("labelled", [(0,), (0, 8, 13), (0, 15), (1, 3, 5)])
def test_a_warning_at_reading(
    labelled: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sparse_set(tmp_path)
    mask = encode(np.ones((HEIGHT, WIDTH), bool))
    masks = [mask if frame in labelled else None for frame in range(FRAMES)]
    content = json.loads((tmp_path / "val.json").read_text())
    content["videos"]["v"]["objects"]["dog"] = masks
    dump(tmp_path / "val.json", content)
    caplog.clear()
    [sample] = load_samples("own", str(tmp_path), "val")
    expected = f"masks on {len(labelled)} of 16 frames"
    assert expected in caplog.text
    assert '"without_mask": "not labelled"' in caplog.text
    [text] = oddities([sample])
    assert expected in text
    # An object that comes and goes is no case of this.
    content["videos"]["v"]["objects"]["dog"] = [None, mask, mask, *[None] * 10, mask, mask, mask]
    dump(tmp_path / "val.json", content)
    caplog.clear()
    load_samples("own", str(tmp_path), "val")
    assert not caplog.text


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'"without_mask" is \'no\', not \'not visible\' or'):
        sparse_set(tmp_path, without_mask="no")


def test_void_of_davis(tmp_path: Path) -> None:
    root = FIXTURES["ref_davis17"](tmp_path).root
    before = load_samples("ref_davis17", str(root), "valid")
    masks_F = before[0].targets[0].masks_F
    assert isinstance(masks_F, PngMasks)
    file = Path(masks_F.folder) / f"{before[0].video.frame_names[0]}.png"
    with Image.open(file) as image:
        values_HW = np.array(image)
    values_HW[:3, :5] = 255
    changed = Image.fromarray(values_HW)
    changed.putpalette([*range(256)] * 3)
    changed.save(file)
    # Masks are kept by the names of their files.
    _masks.cache_clear()
    sample = load_samples("ref_davis17", str(root), "valid")[0]
    assert sample.notes.void_F is not None
    void = sample.notes.void_F[0]
    assert void is not None
    assert (decode(void) == (values_HW == 255)).all()
    assert not any(sample.notes.void_F[1:])
