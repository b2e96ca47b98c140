"""SAM 2 goes on from a drawn mask: alone, or redrawn from its language token on every frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base

from core.digest import image_digest
from core.drawing.requests import DrawnPrompt
from core.types import MaskPrompt
from models.policy.mask_head import FrameFeatures, MaskHead, resize_logits
from models.segmenters import make, sam2_build, sam2_track
from models.segmenters.base import Prompt
from models.segmenters.sam2 import Sam2Segmenter
from models.segmenters.sam2_files import VERSIONS
from models.segmenters.sam2_shape import OFFICIAL, TINY
from tests.models.seg_cases import head, sam
from tests.models.segmenters.test_sam2 import SHIPPED, box_of, frame_ious, noise, tracks

KEYFRAME = 2


@pytest.fixture(scope="module", params=VERSIONS)
def model(request: pytest.FixtureRequest) -> SAM2Base:
    made = sam(request.param)
    # The memory must show in the masks.
    for parameter in made.memory_attention.parameters():
        parameter.data *= 3
    return made


@pytest.fixture(scope="module")
def mask_head(model: SAM2Base) -> MaskHead:
    return head(model)


def drawn(
    model: SAM2Base, mask_head: MaskHead, frames_FHWC: np.ndarray, frame: int, seed: int = 0
) -> DrawnPrompt:
    """What a policy with some hidden state at [SEG] draws on a frame."""
    state_1D = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
    image = frames_FHWC[frame]
    maps = FrameFeatures(model, TINY)([image_digest(image)], {image_digest(image): image})
    with torch.no_grad():
        logits_1hw, token_1C = mask_head(state_1D, maps, torch.zeros(1, dtype=torch.int64))
    return DrawnPrompt(frame, logits_1hw[0].numpy(), token_1C[0].numpy())


class Counting:
    """A head's decoder, and how many frames of tracks it was asked for."""

    def __init__(self, mask_head: MaskHead) -> None:
        self.mask_head = mask_head
        self.asked = 0

    def __call__(self, maps: sam2_track.Maps, token_BC: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.asked += len(token_BC)
        return self.mask_head.decode(maps, token_BC)


@pytest.mark.parametrize("redrawn", [False, True])
def test_propagation_starts_from_the_drawn_mask_and_goes_both_ways(
    model, mask_head, redrawn
) -> None:
    decode = Counting(mask_head)
    segmenter = Sam2Segmenter(model, TINY, redraw=decode if redrawn else None)
    frames = noise()
    prompt = drawn(model, mask_head, frames, KEYFRAME)
    masks_FHW = segmenter.segment(frames, [prompt])[0]
    logits_1hw = torch.as_tensor(prompt.logits_hw)[None]
    height, width = frames.shape[1:3]
    expected_HW = resize_logits(logits_1hw, height, width)[0] > 0
    assert (masks_FHW[KEYFRAME] != expected_HW.numpy()).mean() < 1e-3
    assert 0.1 < masks_FHW[KEYFRAME].mean() < 0.9

    future = frames[KEYFRAME:]
    past = frames[: KEYFRAME + 1][::-1].copy()
    on_first = drawn(model, mask_head, future, 0)
    ahead = segmenter.segment(future, [on_first])[0]
    back = segmenter.segment(past, [on_first])[0]
    assert (masks_FHW[KEYFRAME:] != ahead).mean() < 1e-3
    assert (masks_FHW[: KEYFRAME + 1][::-1] != back).mean() < 1e-3

    # Both directions, each with the keyframe; then two clips of one direction.
    frames_asked = (7 + 1) + 5 + 3
    assert decode.asked == (frames_asked if redrawn else 0)


def test_redrawing_changes_the_other_frames_and_follows_the_token(model, mask_head) -> None:
    frames = noise()
    prompt = drawn(model, mask_head, frames, KEYFRAME, seed=0)
    other = drawn(model, mask_head, frames, KEYFRAME, seed=1)
    swapped = DrawnPrompt(KEYFRAME, prompt.logits_hw, other.token_C)
    plain = Sam2Segmenter(model, TINY).segment(frames, [prompt, swapped])
    # The token is not used.
    np.testing.assert_array_equal(plain[0], plain[1])

    redrawing = Sam2Segmenter(model, TINY, redraw=mask_head.decode)
    redrawn = redrawing.segment(frames, [prompt, other, swapped])
    others = [f for f in range(7) if f != KEYFRAME]
    assert (redrawn[0, others] != plain[0, others]).any()
    assert (redrawn[0] != redrawn[1]).any()
    assert (redrawn[1] != redrawn[2]).mean() < 1e-3


@pytest.mark.parametrize("redrawn", [False, True])
def test_drawn_masks_and_boxes_share_a_batch_of_prompts(model, mask_head, redrawn) -> None:
    segmenter = Sam2Segmenter(model, TINY, redraw=mask_head.decode if redrawn else None)
    frames = noise()
    box = MaskPrompt(4, (10.0, 12.0, 55.0, 41.0))
    prompts: list[Prompt] = [
        drawn(model, mask_head, frames, KEYFRAME),
        box,
        drawn(model, mask_head, frames, 6, seed=1),
    ]
    together = segmenter.segment(frames, prompts)
    for mask_FHW, prompt in zip(together, prompts, strict=True):
        alone = segmenter.segment(frames, [prompt])[0]
        assert (mask_FHW != alone).mean() < 1e-3


def test_a_mask_prompt_of_an_official_shape_is_sam2s_own(mask_head) -> None:
    """`begin` against `SAM2Base.track_step` with a mask prompt: the same memory and pointer.

    On a small model without dense prompts, as the official ones. The first mask stays as it was
    drawn, not cut to two values.
    """
    shape = replace(TINY, dense_prompt=False)
    torch.manual_seed(0)
    model = sam2_build.build(shape)
    image = sam2_track.normalise(torch.from_numpy(noise()[:1]), shape.image_size)
    maps = sam2_track.encode(model, image)
    low = torch.randn(1, 1, 32, 32)
    memory = sam2_track.new_memory()
    with torch.no_grad():
        assert sam2_track.begin(model, maps, memory, low, dense_prompt=False) is low
        flat, sizes, position = sam2_track._flat(model, maps)
        mask = (F.interpolate(low, (128, 128), mode="bilinear") > 0).float()
        expected = model.track_step(
            0,
            True,
            flat,
            [position],
            sizes,
            None,
            mask,
            sam2_track.new_memory(),
            num_frames=1 << 30,
        )
    found = memory["cond_frame_outputs"][0]
    torch.testing.assert_close(found["obj_ptr"], expected["obj_ptr"])
    assert not model.training
    assert OFFICIAL["hiera_t"].dense_prompt == shape.dense_prompt
    score = torch.tensor([[10.0]])
    binary, _ = model._encode_new_memory(flat, sizes, mask * 20 - 10, score, True)
    torch.testing.assert_close(found["maskmem_features"], binary)


def test_an_object_that_is_not_drawn_is_absent(model, mask_head) -> None:
    frames = noise()
    logits_hw = np.full((32, 32), -3.0, np.float32)
    nothing = DrawnPrompt(KEYFRAME, logits_hw, np.zeros(64, np.float32))
    for redraw in (None, mask_head.decode):
        segmenter = Sam2Segmenter(model, TINY, redraw=redraw)
        assert not segmenter.segment(frames, [nothing]).any()


def test_what_cannot_follow_a_drawn_mask_says_so(model, mask_head) -> None:
    frames = noise()
    prompt = drawn(model, mask_head, frames, KEYFRAME)
    with pytest.raises(ValueError, match="only sam2 follows a mask"):
        make("grabcut", {}).segment(frames, [prompt])
    with pytest.raises(ValueError, match="without its language token"):
        bare = DrawnPrompt(KEYFRAME, prompt.logits_hw)
        Sam2Segmenter(model, TINY, redraw=mask_head.decode).segment(frames, [bare])
    with pytest.raises(ValueError, match="frame 9 of a video of 7"):
        Sam2Segmenter(model, TINY).segment(frames, [DrawnPrompt(9, prompt.logits_hw)])


@pytest.mark.skipif(not Path(SHIPPED).is_dir(), reason="no weights in tiny/weights/segmenter")
def test_shipped_weights_follow_a_true_mask_about_as_well_as_a_box() -> None:
    shipped = make("sam2", {"path": str(SHIPPED)})
    later: dict[str, list[Any]] = {"box": [], "drawn": []}
    for made, thing, frame in tracks(12, seed=7):
        truth_FHW = made.owner_FHW == thing
        full_11HW = torch.from_numpy(truth_FHW[frame])[None, None].float()
        small_hw = F.interpolate(full_11HW, (32, 32), mode="area")[0, 0]
        box = MaskPrompt(frame, box_of(made, thing, frame))
        prompts: list[Prompt] = [box, DrawnPrompt(frame, (20 * small_hw - 10).numpy())]
        seen_F = made.areas_OF[thing] > 0
        seen_F[frame] = False
        for name, masks_FHW in zip(later, shipped.segment(made.frames_FHWC, prompts), strict=True):
            later[name].extend(frame_ious(masks_FHW, truth_FHW)[seen_F])
    assert np.mean(later["drawn"]) >= max(0.4, np.mean(later["box"]) - 0.05)
