"""All errors of a data set at once: reading goes on after each, and each is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.load import load_samples
from data.prepare.check import problems, read_all
from tests.data.fixtures import FIXTURES, HEIGHT, WIDTH, dump


@pytest.mark.parametrize("format", FIXTURES)
def test_nothing_is_wrong_with_a_right_data_set(format: str, tmp_path: Path) -> None:
    written = FIXTURES[format](tmp_path)
    assert problems(format, str(written.root), written.split) == []
    samples, found = read_all(format, str(written.root), written.split)
    assert [sample.uid for sample in samples] == list(written.expected)
    assert not found


def test_six_things_at_once(tmp_path: Path) -> None:
    """A JSON field, a mask's size, damaged runs, two missing frames, a frame cut short."""
    root = FIXTURES["revos"](tmp_path).root
    meta = json.loads((root / "meta_expressions_valid_.json").read_text())
    expressions = meta["videos"]["UVO/all/-fbscFfkh4M"]["expressions"]
    del expressions["0"]["exp"]
    expressions["2"]["type_id"] = 7
    dump(root / "meta_expressions_valid_.json", meta)
    masks = json.loads((root / "mask_dict.json").read_text())
    masks["101"][0]["size"] = [HEIGHT, WIDTH + 1]
    dump(root / "mask_dict.json", masks)
    images = root / "JPEGImages/LVOS/valid/kitten"
    (images / "00000.jpg").unlink()
    (images / "00010.jpg").unlink()
    file = images / "00015.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    found = problems("revos", str(root), "valid")
    patterns = (
        r"valid_.json: video 'UVO/all/-fbscFfkh4M': expression '0': key \"exp\" is missing",
        r"mask_dict.json: key '101': frame 0: \"size\" is 24 x 33",
        r"meta_expressions_valid_.json: \"type_id\" of 'the cat on the table' is 7",
        r"LVOS/valid/kitten/00000.jpg.*missing",
        r"LVOS/valid/kitten/00010.jpg.*missing",
        r"LVOS/valid/kitten/00015.jpg.*damaged",
    )
    for pattern in patterns:
        matching = [text for text in found if re.search(pattern, text)]
        assert len(matching) == 1, (pattern, found)
    assert len(found) == len(patterns), found


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    root = FIXTURES["mevis"](tmp_path).root
    (root / "valid_u/mask_dict.json").write_text('{"10": [')
    samples, found = read_all("mevis", str(root), "valid_u")
    assert len(found) == 1
    assert "mask_dict.json is not JSON" in found[0]
    # This expression needs no mask.
    assert [sample.uid for sample in samples] == ["0a1b2c/2"]
    (root / "valid_u/meta_expressions.json").write_text("")
    samples, found = read_all("mevis", str(root), "valid_u")
    assert not samples
    assert len(found) == 1
    assert "meta_expressions.json is empty" in found[0]


def test_wrong_pngs_are_all_named(tmp_path: Path) -> None:
    root = FIXTURES["ref_youtube_vos"](tmp_path).root
    folder = root / "train/Annotations/003234408d"
    (folder / "00005.png").unlink()
    (folder / "00010.png").unlink()
    found = problems("ref_youtube_vos", str(root), "train")
    assert len(found) == 3
    assert all("00005.png is missing (and 1 more: 00010.png)" in text for text in found)


def test_a_png_of_another_size_is_found(tmp_path: Path) -> None:
    root = FIXTURES["longrvos"](tmp_path).root
    file = root / "valid/Annotations/71fb69bbcd/4/00010.png"
    wide_HW = np.ones((HEIGHT, WIDTH + 2), np.uint8)
    cv2.imwrite(str(file), wide_HW)
    found = problems("longrvos", str(root), "valid")
    assert len(found) == 1
    assert str(file) in found[0]
    assert "24 x 34" in found[0]


def test_loading_may_leave_out_what_is_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = FIXTURES["mevis"](tmp_path).root
    masks = json.loads((root / "valid_u/mask_dict.json").read_text())
    masks["11"].pop()
    dump(root / "valid_u/mask_dict.json", masks)
    (root / "valid_u/JPEGImages/77e0ff/00010.jpg").unlink()
    with pytest.raises(ValueError, match="key '11' holds 3 masks"):
        load_samples("mevis", str(root), "valid_u")
    samples = load_samples("mevis", str(root), "valid_u", broken="skip")
    assert [sample.uid for sample in samples] == ["0a1b2c/0"]
    assert "valid_u: 2 errors, left out; the first: " in caplog.text
    assert "key '11' holds 3 masks" in caplog.text
    with pytest.raises(ValueError, match="data.broken: 'go on' is not one of stop, skip"):
        load_samples("mevis", str(root), "valid_u", broken="go on")
