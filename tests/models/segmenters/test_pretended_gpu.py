"""Segmenters on a pretended GPU, with and without half precision and a default device."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base

from core.types import MaskPrompt
from models.segmenters.base import Prompt
from models.segmenters.grabcut import GrabCutSegmenter
from models.segmenters.sam2 import Sam2Segmenter
from models.segmenters.sam2_shape import TINY, Shape
from models.segmenters.sam2_xmem import XMemSegmenter
from models.segmenters.xmem_checkout import load_xmem
from tests.fake_cuda import fake_cuda
from tests.models.seg_cases import head, sam
from tests.models.segmenters.test_drawn_prompts import drawn
from tests.models.segmenters.test_sam2 import BOX, OTHER, POINTS, noise
from tests.models.segmenters.test_sam2_xmem import PROMPTS, clip
from tests.models.small_xmem import write

# As official shapes: half precision on a GPU, prompts in their own form.
OFFICIAL_FORM = replace(TINY, dense_prompt=False)


@pytest.fixture(scope="module")
def model() -> SAM2Base:
    return sam()


def test_sam2_gives_the_same_masks(model: SAM2Base) -> None:
    frames = noise(5)
    prompts = [BOX, OTHER, POINTS]
    plain = Sam2Segmenter(copy.deepcopy(model), TINY)
    expected = plain.segment(frames, prompts)
    images = [frames[prompt.frame] for prompt in prompts]
    expected_images = plain.image_masks(images, prompts)
    with fake_cuda(default=True) as traffic:
        segmenter = Sam2Segmenter(copy.deepcopy(model), TINY, "cuda")
        found = segmenter.segment(frames, prompts)
        found_images = segmenter.image_masks(images, prompts)
    assert traffic.operations
    assert expected.any()
    np.testing.assert_array_equal(found, expected)
    for mask, expected_mask in zip(found_images, expected_images, strict=True):
        np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize(
    ("shape", "redraws"), [(TINY, False), (OFFICIAL_FORM, False), (OFFICIAL_FORM, True)]
)
def test_sam2_goes_on_from_drawn_masks(model: SAM2Base, shape: Shape, redraws: bool) -> None:
    frames = noise(4)
    mask_head = head(model)
    prompts: list[Prompt] = [drawn(model, mask_head, frames, 2, seed) for seed in (0, 1)]
    decode = mask_head.decode if redraws else None
    expected = Sam2Segmenter(copy.deepcopy(model), shape, redraw=decode).segment(frames, prompts)
    with fake_cuda():
        moved = copy.deepcopy(mask_head).to("cuda")
        decode = moved.decode if redraws else None
        segmenter = Sam2Segmenter(copy.deepcopy(model), shape, "cuda", redraw=decode)
        found = segmenter.segment(frames, prompts)
    assert segmenter.half == (shape is OFFICIAL_FORM)
    assert expected.any()
    # Half precision moves edges.
    most = 0.1 if segmenter.half else 0.0
    assert (found != expected).mean() <= most


def test_sam2_in_half_precision(model: SAM2Base) -> None:
    frames = noise(5)
    prompts: list[Prompt] = [BOX, POINTS]
    expected = Sam2Segmenter(copy.deepcopy(model), OFFICIAL_FORM).segment(frames, prompts)
    with fake_cuda():
        segmenter = Sam2Segmenter(copy.deepcopy(model), OFFICIAL_FORM, "cuda")
        found = segmenter.segment(frames, prompts)
        kept = next(iter(segmenter.features.kept.values()))
    assert kept[0].dtype == torch.bfloat16
    assert (found != expected).mean() <= 0.1


def test_xmem_follows_the_masks_of_the_first_segmenter(tmp_path: Path) -> None:
    video = clip()
    xmem = load_xmem(*write(tmp_path))
    expected = XMemSegmenter(GrabCutSegmenter(), xmem, short_side=0).segment(video, PROMPTS)
    with fake_cuda(default=True) as traffic:
        segmenter = XMemSegmenter(GrabCutSegmenter(), xmem, "cuda", short_side=0)
        found = segmenter.segment(video, PROMPTS)
    assert traffic.operations
    np.testing.assert_array_equal(found, expected)


def test_grabcut_knows_no_device() -> None:
    video = clip(5)
    prompts = [MaskPrompt(2, (12.0, 8.0, 22.0, 18.0))]
    expected = GrabCutSegmenter().segment(video, prompts)
    with fake_cuda(default=True) as traffic:
        found = GrabCutSegmenter().segment(video, prompts)
    assert not traffic.operations
    np.testing.assert_array_equal(found, expected)
