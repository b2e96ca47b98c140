"""The XMem adapter on a small checkout with the official interface.

The environment variable RAYVOS_XMEM may name an official checkout.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.types import MaskPrompt
from models.segmenters import base, make, sam2_xmem
from models.segmenters.grabcut import GrabCutSegmenter
from models.segmenters.sam2_xmem import XMemSegmenter
from models.segmenters.xmem_checkout import (
    SETTINGS,
    XMem,
    import_checkout,
    load_xmem,
    without_download,
)
from tests.models.small_xmem import write

SHIPPED = Path(__file__).parents[3] / "tiny" / "weights" / "segmenter"
RED = (220, 30, 30)
BLUE = (40, 60, 230)


def clip(frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    """A red square that moves right, a blue one that moves down; on grey."""
    video = np.full((frames, height, width, 3), 110, np.uint8)
    for f in range(frames):
        video[f, 8:18, 4 + 4 * f : 14 + 4 * f] = RED
        video[f, 20 + 2 * f : 30 + 2 * f, 50:60] = BLUE
    return video


def where(video: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (video == np.array(colour)).all(-1)


PROMPTS = [
    MaskPrompt(4, (20.0, 8.0, 30.0, 18.0)),
    MaskPrompt(0, (50.0, 20.0, 60.0, 30.0)),
]


@pytest.fixture
def small(tmp_path: Path) -> XMem:
    return load_xmem(*write(tmp_path))


@pytest.mark.parametrize("short_side", [0, 160])
def test_objects_are_followed_both_ways_as_tracks_of_their_own(
    small: XMem, short_side: int
) -> None:
    video = clip()
    segmenter = XMemSegmenter(GrabCutSegmenter(), small, short_side=short_side)
    masks_OFHW = segmenter.segment(video, PROMPTS)
    for mask_FHW, colour in zip(masks_OFHW, (RED, BLUE), strict=True):
        truth = where(video, colour)
        iou = (mask_FHW & truth).sum((1, 2)) / (mask_FHW | truth).sum((1, 2))
        assert iou.min() > 0.9


def test_each_direction_has_a_fresh_memory_that_ends_with_its_last_frame(small: XMem) -> None:
    video = clip()
    segmenter = XMemSegmenter(GrabCutSegmenter(), small, short_side=0)
    pieces = list(segmenter.track(video, PROMPTS))
    made = small.make_core.made  # type: ignore[attr-defined]  # the small one keeps a list
    # Frames 4..8 and 4..0 of the first; nothing lies before the second.
    assert [core.steps for core in made] == [5, 5, 9]
    assert all(core.ended for core in made)
    places = [place for piece in pieces for place in piece.places]
    assert sorted(places) == [(o, f) for o in range(2) for f in range(9)]


def test_an_object_without_a_mask_on_its_frame_is_nowhere(small: XMem) -> None:
    outside = MaskPrompt(3, (200.0, 200.0, 210.0, 210.0))
    masks = XMemSegmenter(GrabCutSegmenter(), small).segment(clip(), [outside])
    assert not masks.any()
    assert not small.make_core.made  # type: ignore[attr-defined]


def test_long_videos_come_in_pieces_and_frames_are_read_a_few_at_a_time(
    small: XMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam2_xmem, "flush_size", lambda height, width: 3)

    class Slow:
        shape = clip(20).shape
        longest = 0

        def __getitem__(self, wanted: slice) -> np.ndarray:
            part = clip(20)[wanted]
            self.longest = max(self.longest, len(part))
            return part

    frames = Slow()
    segmenter = XMemSegmenter(GrabCutSegmenter(), small, short_side=0)
    pieces = list(segmenter.track(frames, PROMPTS[:1]))
    assert max(len(piece.places) for piece in pieces) == 3
    assert frames.longest == base.AHEAD
    assert sorted(f for piece in pieces for _, f in piece.places) == list(range(20))


def test_the_checkout_is_on_no_path_and_under_no_name_afterwards(
    small: XMem, tmp_path: Path
) -> None:
    assert str(tmp_path) not in sys.path
    assert not {"model", "model.network", "inference", "util"} & set(sys.modules)


def test_use_is_counted_only_where_the_long_memory_can_overflow(small: XMem) -> None:
    assert not small.start(300).config["enable_long_term_count_usage"]  # type: ignore[attr-defined]
    assert small.start(400).config["enable_long_term_count_usage"]  # type: ignore[attr-defined]


def test_sam2_makes_the_first_mask(tmp_path: Path) -> None:
    checkout, weights = write(tmp_path)
    settings = {
        "path": str(SHIPPED),
        "xmem_path": str(checkout),
        "xmem_weights": str(weights),
        "xmem_size": 0,
    }
    made = make("sam2_xmem", settings)
    video = clip(5, 112, 112)
    expected = make("sam2", settings).image_masks([video[4]], PROMPTS[:1])[0]
    np.testing.assert_array_equal(made.segment(video, PROMPTS[:1])[0, 4], expected)


def test_what_is_missing_is_told_with_its_setting(tmp_path: Path) -> None:
    checkout, weights = write(tmp_path / "there")
    with pytest.raises(
        ValueError, match="segmenter.xmem_path=.*inference_core.py.*hkchengrex/XMem"
    ):
        load_xmem(tmp_path, weights)
    with pytest.raises(ValueError, match="segmenter.xmem_weights=.*none.pth.*hkchengrex/XMem"):
        load_xmem(checkout, tmp_path / "none.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="segmenter.xmem_weights=.*other.pth: not weights of XMem"):
        load_xmem(checkout, tmp_path / "other.pth")
    (checkout / "model" / "network.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ValueError, match="segmenter.xmem_path=.*nothing_of_that_name"):
        load_xmem(checkout, weights)


@pytest.mark.skipif(
    "RAYVOS_XMEM" not in os.environ, reason="RAYVOS_XMEM names no checkout of the official XMem"
)
def test_the_official_code_runs_with_random_weights(tmp_path: Path) -> None:
    checkout = Path(os.environ["RAYVOS_XMEM"])
    network, _core, resnet = import_checkout(checkout)
    torch.set_num_threads(1)
    with without_download(resnet):
        torch.save(network.XMem(dict(SETTINGS)).state_dict(), tmp_path / "random.pth")
    xmem = load_xmem(checkout, tmp_path / "random.pth")
    # Long enough for the long-term memory.
    video = clip(60)
    masks = XMemSegmenter(GrabCutSegmenter(), xmem, short_side=0).segment(video, PROMPTS)
    expected = GrabCutSegmenter().image_masks([video[4]], PROMPTS[:1])[0]
    np.testing.assert_array_equal(masks[0, 4], expected)
    assert masks.shape == (2, 60, 48, 64)
