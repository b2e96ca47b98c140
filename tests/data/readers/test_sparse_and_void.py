"""Labels that say nothing: frames without a mask, and pixels of no object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.evaluation.protocols import measure
from core.masks import decode
from core.types import Sample
from data.load import load_samples
from data.masks.png_masks import PngMasks, _masks
from data.prepare.verify import oddities
from tests.data.fixtures import FIXTURES, dump

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
