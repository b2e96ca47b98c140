"""Mechanics of the SAM 2 segmenter with a random tiny model.

And the quality of the shipped weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base

from core.types import MaskPrompt
from models.segmenters import base, make, sam2_build, sam2_track
from models.segmenters.base import Segmenter
from models.segmenters.sam2 import Sam2Segmenter
from models.segmenters.sam2_features import size_of
from models.segmenters.sam2_shape import TINY
from tiny.world.scene import Scene, random_scene

SHIPPED = Path(__file__).parents[3] / "tiny" / "weights" / "segmenter"


@pytest.fixture(scope="module")
def untrained() -> SAM2Base:
    """A random model with masks that depend on frame and memory.

    Equal masks would prove nothing.
    """
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = sam2_build.build(TINY)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    for parameter in model.memory_attention.parameters():
        parameter.data *= 3
    return model


@pytest.fixture
def random_model(untrained: SAM2Base) -> Sam2Segmenter:
    return Sam2Segmenter(untrained, TINY)


def noise(frames: int = 7, height: int = 60, width: int = 90, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (frames, height // 10, width // 10, 3)
    small = rng.integers(0, 256, shape, dtype=np.uint8)
    return small.repeat(10, 1).repeat(10, 2)


Box = tuple[float, float, float, float]

BOX = MaskPrompt(2, (10.0, 12.0, 55.0, 41.0))
OTHER = MaskPrompt(4, (50.0, 5.0, 88.0, 58.0))
POINTS = MaskPrompt(2, None, ((30.0, 20.0), (70.0, 50.0)), (1, 0))


def test_both_directions_are_the_forward_track_of_the_clip_and_of_the_reversed_clip(
    random_model: Sam2Segmenter,
) -> None:
    frames = noise()
    masks = random_model.segment(frames, [BOX])[0]
    ahead = random_model.segment(frames[2:], [MaskPrompt(0, BOX.box)])[0]
    back = random_model.segment(frames[:3][::-1].copy(), [MaskPrompt(0, BOX.box)])[0]
    np.testing.assert_array_equal(masks[2:], ahead)
    np.testing.assert_array_equal(masks[:3][::-1], back)
    assert masks.any()
    assert not masks.all()
    assert (ahead[1] != ahead[2]).any()


def test_the_tracker_uses_its_memory(random_model: Sam2Segmenter) -> None:
    frames = noise()
    masks = random_model.segment(frames, [BOX, MaskPrompt(2, OTHER.box)])
    assert (masks[0, 3:] != masks[1, 3:]).any()


def test_a_batch_of_prompts_equals_one_by_one(random_model: Sam2Segmenter) -> None:
    frames = noise()
    prompts = [BOX, OTHER, POINTS, MaskPrompt(6, BOX.box, ((20.0, 20.0),), (1,))]
    together = random_model.segment(frames, prompts)
    assert together.shape == (4, 7, 60, 90)
    assert together.dtype == bool
    for mask_FHW, prompt in zip(together, prompts, strict=True):
        alone = random_model.segment(frames, [prompt])[0]
        # Floating-point noise at the edges.
        assert (mask_FHW != alone).mean() < 1e-3


def test_image_masks_equal_the_prompted_frame_of_the_video(random_model: Sam2Segmenter) -> None:
    frames = noise()
    wide = noise(height=40, width=120, seed=5)
    on_wide = MaskPrompt(0, (5.0, 5.0, 60.0, 30.0))
    prompts = [BOX, OTHER, POINTS, on_wide]
    videos = [frames, frames, frames, wide]
    images = [video[prompt.frame] for video, prompt in zip(videos, prompts, strict=True)]
    masks = random_model.image_masks(images, prompts)
    assert [mask.shape for mask in masks] == [(60, 90)] * 3 + [(40, 120)]
    for video, prompt, mask in zip(videos, prompts, masks, strict=True):
        of_video = random_model.segment(video, [prompt])[0, prompt.frame]
        assert (of_video != mask).mean() < 1e-3


def test_prompts_are_in_pixels_of_the_frames(random_model: Sam2Segmenter) -> None:
    prompt = MaskPrompt(0, (9.0, 12.0, 45.0, 60.0), ((90.0, 0.0),), (0,))
    points = random_model._points([prompt], [(60, 90)])
    assert points["point_labels"].tolist() == [[2, 3, 0]]
    expected = torch.tensor([[12.8, 25.6], [64.0, 128.0], [128.0, 0.0]])
    torch.testing.assert_close(points["point_coords"][0], expected)
    assert random_model.segment(noise(), [BOX]).shape == (1, 7, 60, 90)


def test_a_box_is_drawn_where_it_is() -> None:
    coords = torch.tensor([[[0.25, 0.5], [0.5, 1.0], [0.9, 0.1]]])
    labels = torch.tensor([[2, 3, 1]])
    logits = sam2_track.prompt_logits(coords, labels, 16)[0, 0]
    in_box = torch.cartesian_prod(torch.arange(8, 16), torch.arange(4, 8))
    point = 1 * 16 + 14
    assert torch.equal((logits == 2).nonzero(), in_box)
    assert logits.argmax() == point
    assert logits[12, 12] == -4

    labels[0, 2] = 0
    logits = sam2_track.prompt_logits(coords, labels, 16)[0, 0]
    assert logits.argmin() == point


def test_frames_are_encoded_once_for_all_prompts_and_calls(random_model: Sam2Segmenter) -> None:
    frames = noise()
    random_model.segment(frames, [BOX, OTHER])
    assert random_model.features.encoded == 7
    random_model.segment(frames, [POINTS])
    random_model.image_masks([frames[0]], [BOX])
    assert random_model.features.encoded == 7


def test_a_small_cache_changes_the_work_but_not_the_masks(
    random_model: Sam2Segmenter, untrained: SAM2Base
) -> None:
    frames = noise(frames=20)
    tight = Sam2Segmenter(untrained, TINY, cache_bytes=1)
    expected = random_model.segment(frames, [BOX])
    np.testing.assert_array_equal(tight.segment(frames, [BOX]), expected)
    tight.segment(frames, [BOX])
    assert tight.features.encoded > 20
    assert len(tight.features.kept) <= 2 * base.AHEAD
    assert tight.features.bytes == sum(size_of(m) for m in tight.features.kept.values())


class Pieces:
    """A video that counts how much of it is asked for at once."""

    def __init__(self, frames_FHWC: np.ndarray) -> None:
        self.frames_FHWC = frames_FHWC
        self.largest = 0
        self.read = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames_FHWC.shape

    def __getitem__(self, wanted: slice) -> np.ndarray:
        piece = self.frames_FHWC[wanted].copy()
        self.largest = max(self.largest, len(piece))
        self.read = self.read + len(piece)
        return piece


@pytest.mark.parametrize("kind", ["sam2", "grabcut"])
def test_a_video_read_in_pieces_has_the_same_masks_and_little_of_it_is_held(
    kind: str, untrained: SAM2Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts in the middle: forward and backward."""
    made = random_scene(np.random.default_rng(5))
    video = made.frames_FHWC.repeat(2, 0)[:45]
    prompts = []
    for thing in (0, 1):
        largest = 5 + int(made.areas_OF[thing, 5:20].argmax())
        prompts.append(MaskPrompt(2 * largest, box_of(made, thing, largest)))

    def fresh() -> Segmenter:
        if kind == "sam2":
            return Sam2Segmenter(untrained, TINY)
        return make("grabcut", {})

    at_once = fresh().segment(video, prompts)
    for masks_FHW, prompt in zip(at_once, prompts, strict=True):
        assert masks_FHW[: prompt.frame].any()
        assert masks_FHW[prompt.frame + 1 :].any()
    monkeypatch.setattr(base, "FLUSH", 5)
    pieces = Pieces(video)
    masks = np.zeros_like(at_once)
    for piece in fresh().track(pieces, prompts):
        assert len(piece.places) == len(piece.masks_NHW)
        assert len(piece.places) <= 5 + 2 * len(prompts)
        for place, mask_HW in zip(piece.places, piece.masks_NHW, strict=True):
            masks[place] = mask_HW
    np.testing.assert_array_equal(masks, at_once)
    assert pieces.largest <= 2 * base.AHEAD
    assert pieces.read >= 45


def test_memory_does_not_grow_with_the_video(untrained: SAM2Base) -> None:
    maps = sam2_track.encode(untrained, torch.zeros(1, 3, 128, 128))
    points = sam2_track.point_inputs([BOX.box], [()], [()], [(1.0, 1.0)], "cpu")
    memory = sam2_track.new_memory()
    with torch.inference_mode():
        for t in range(24):
            prompted = points if t == 0 else None
            sam2_track.step(untrained, maps, t, memory, prompted, dense_prompt=True)

    kept = memory["non_cond_frame_outputs"]
    with_features = [out for out in kept.values() if out["maskmem_features"] is not None]
    assert len(kept) == untrained.max_obj_ptrs_in_encoder
    assert len(with_features) == untrained.num_maskmem


def test_a_prompt_with_nothing_in_it_has_no_mask(random_model: Sam2Segmenter) -> None:
    empty = [
        MaskPrompt(0, (20.0, 20.0, 20.0, 40.0)),
        MaskPrompt(1, (200.0, 5.0, 300.0, 20.0)),
        MaskPrompt(2, None),
    ]
    assert not random_model.segment(noise(), empty).any()
    assert random_model.segment(noise(), []).shape == (0, 7, 60, 90)


def test_wrong_prompts_are_named(random_model: Sam2Segmenter) -> None:
    with pytest.raises(ValueError, match="frame 9 of a video of 7"):
        random_model.segment(noise(), [MaskPrompt(9, BOX.box)])
    unequal = MaskPrompt(0, None, ((1.0, 2.0), (3.0, 4.0)), (1,))
    with pytest.raises(ValueError, match="2 points but 1 labels"):
        random_model.segment(noise(), [unequal])


def test_saved_and_loaded_models_agree(untrained: SAM2Base, tmp_path: Path) -> None:
    sam2_build.save(tmp_path / "seg", untrained, TINY, {"step": 3})
    model, shape = sam2_build.load(tmp_path / "seg")
    assert shape == TINY
    assert (tmp_path / "seg" / "model.safetensors").stat().st_size < 3.5 * 2**20
    for name, value in untrained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float()), name
    loaded = make("sam2", {"path": str(tmp_path / "seg")})
    assert loaded.segment(noise(), [BOX]).shape == (1, 7, 60, 90)


def test_errors_name_the_key_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="segmenter.kind: 'sam3' is unknown; choose one of sam2, sam2_xmem, grabcut",
    ):
        make("sam3", {})
    with pytest.raises(ValueError, match="no file .*missing.pt"):
        make("sam2", {"path": str(tmp_path / "missing.pt"), "config": "hiera_l"})
    with pytest.raises(ValueError, match="no file .*config.json"):
        make("sam2", {"path": str(tmp_path)})
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="x.pt cannot be read as a checkpoint"):
        make("sam2", {"path": str(tmp_path / "x.pt")})
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(ValueError, match="'qwen2_5_vl': not a segmenter"):
        make("sam2", {"path": str(tmp_path)})


def tracks(count: int, seed: int) -> list[tuple[Scene, int, int]]:
    """(scene, thing, frame where it is well visible) that training has not seen."""
    found = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        made = random_scene(rng)
        thing, frame = rng.choice(np.argwhere(made.areas_OF >= 100))
        found.append((made, int(thing), int(frame)))
    return found


def box_of(made: Scene, thing: int, frame: int) -> Box:
    """The true box of a thing on a frame."""
    x0, y0, x1, y1 = made.boxes_OF4[thing, frame].tolist()
    return float(x0), float(y0), float(x1), float(y1)


def frame_ious(masks_FHW: np.ndarray, truth_FHW: np.ndarray) -> np.ndarray:
    """The IoU on each frame; 0 where both are empty."""
    both_F = (masks_FHW & truth_FHW).sum((1, 2))
    either_F = (masks_FHW | truth_FHW).sum((1, 2))
    return both_F / np.maximum(either_F, 1)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no weights in tiny/weights/segmenter")
def test_shipped_weights_segment_follow_and_know_absence() -> None:
    shipped = make("sam2", {"path": str(SHIPPED)})
    first = []
    later = []
    absent = []
    for made, thing, frame in tracks(60, seed=99):
        truth_FHW = made.owner_FHW == thing
        prompt = MaskPrompt(frame, box_of(made, thing, frame))
        masks_FHW = shipped.segment(made.frames_FHWC, [prompt])[0]
        j_F = frame_ious(masks_FHW, truth_FHW)
        first.append(j_F[frame])

        is_absent_F = ~truth_FHW.any((1, 2))
        absent.extend(~masks_FHW[is_absent_F].any((1, 2)))
        seen_F = made.areas_OF[thing] > 0
        seen_F[frame] = False
        later.extend(j_F[seen_F])
    assert np.mean(first) >= 0.75
    assert np.mean(later) >= 0.6
    assert np.mean(absent) >= 0.8
