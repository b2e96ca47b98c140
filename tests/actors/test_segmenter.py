"""Segmenter actors for real: videos on disk, a random tiny SAM 2 and GrabCut, a death."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from actors import segmenter
from actors.segmenter import SegmenterPool, Tracked, Truth
from cluster.placement import place
from configs.schema import ClusterConfig, Config, SegmenterConfig
from core.evaluation.protocols import measure
from core.masks import decode, encode_frames, union
from core.types import MaskPrompt, Sample, Target, Video
from data.frames.frame_store import node_store
from data.frames.probing import probe
from data.frames.reading import read_frames
from models.segmenters import make, sam2_build
from models.segmenters.sam2_shape import TINY
from tiny.world.clip import write_clip
from tiny.world.scene import random_scene

# A video and two prompts on it.
Prompted = tuple[Video, MaskPrompt, MaskPrompt]


def box_prompt(frame: int, box_4: np.ndarray) -> MaskPrompt:
    x0, y0, x1, y1 = (float(side) for side in box_4)
    return MaskPrompt(frame, (x0, y0, x1, y1))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Prompted]:
    """Three short videos as JPEG folders, each with two prompts."""
    found: list[Prompted] = []
    for number in range(3):
        folder = tmp_path_factory.mktemp(f"v{number}")
        scene = random_scene(np.random.default_rng(number))
        names = tuple(f"{frame:05d}" for frame in range(10))
        for name, image_HWC in zip(names, scene.frames_FHWC, strict=False):
            file = str(folder / f"{name}.jpg")
            cv2.imwrite(file, image_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        height, width = scene.frames_FHWC.shape[1:3]
        video = Video(f"v{number}", str(folder), names, height, width)

        # The first and the last place with an object of some size.
        spots = np.argwhere(scene.areas_OF[:, :10] > 100)
        prompts = []
        for thing, frame in spots[[0, -1]]:
            prompts.append(box_prompt(int(frame), scene.boxes_OF4[thing, frame]))
        first, last = prompts
        found.append((video, first, last))
    return found


def config(kind: Any, path: str = "", workers: int = 1) -> Config:
    return Config(
        segmenter=SegmenterConfig(kind=kind, path=path, workers=workers),
        cluster=ClusterConfig(use_gpu="no"),
    )


def start(cfg: Config) -> SegmenterPool:
    return SegmenterPool(cfg, place(cfg))


@pytest.fixture(scope="module")
def pool(
    ray_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SegmenterPool, Path]]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    model = sam2_build.build(TINY)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    sam2_build.save(folder, model, TINY)
    started = start(config("sam2", str(folder), workers=2))
    yield started, folder
    started.close()


def test_masks_come_back_in_order_and_as_the_segmenter_alone_makes_them(
    pool: tuple[SegmenterPool, Path], videos: list[Prompted]
) -> None:
    segmenters, folder = pool
    without = [(video, ()) for video, _, _ in videos]
    with_one = [(video, (first,)) for video, first, _ in videos]
    with_both = [(video, (first, last)) for video, first, last in videos]
    episodes: list[tuple[Video, tuple[MaskPrompt, ...]]] = [*without, *with_one, *with_both]
    masks = segmenters.segment(episodes)
    assert len(masks) == 9
    alone = make("sam2", {"path": str(folder)})
    for (video, prompts), rles_F in zip(episodes, masks, strict=True):
        assert len(rles_F) == 10
        if not prompts:
            assert rles_F == (None,) * 10
            continue
        expected_FHW = alone.segment(read_frames(video, range(10)), prompts).max(0)
        for rle, expected in zip(rles_F, expected_FHW, strict=True):
            got = np.zeros_like(expected)
            if rle is not None:
                got = decode(rle)
                assert got.any()
            # Other batches round in another way.
            assert (got != expected).mean() < 1e-3

    # The masks of two prompts contain those of one.
    for of_one, of_both in zip(masks[3:6], masks[6:9], strict=True):
        for one, both in zip(of_one, of_both, strict=True):
            assert union([one, both]) == both


def test_no_jobs_and_no_prompts_need_no_work(
    pool: tuple[SegmenterPool, Path], videos: list[Prompted]
) -> None:
    segmenters, _ = pool
    video, _, _ = videos[0]
    assert segmenters.segment([]) == []
    assert segmenters.segment([(video, ())]) == [(None,) * 10]


def test_errors_reach_the_driver(pool: tuple[SegmenterPool, Path], videos: list[Prompted]) -> None:
    segmenters, _ = pool
    video, _, _ = videos[0]
    beyond = MaskPrompt(10, (1.0, 1.0, 5.0, 5.0))
    with pytest.raises(ValueError, match="prompt on frame 10 of a video of 10 frames"):
        segmenters.segment([(video, (beyond,))])


def test_grabcut_survives_the_death_of_its_actor(
    ray_env: dict[str, str], videos: list[Prompted]
) -> None:
    segmenters = start(config("grabcut"))
    episodes = [(video, (first,)) for video, first, _ in videos]
    before = segmenters.segment(episodes)
    for masks_F, (_, first, _) in zip(before, videos, strict=True):
        assert masks_F[first.frame] is not None
    segmenters.workers[0].kill()
    assert segmenters.segment(episodes) == before
    segmenters.close()


def test_an_actor_that_cannot_start_says_why(
    ray_env: dict[str, str], videos: list[Prompted], tmp_path: Path
) -> None:
    segmenters = start(config("sam2", str(tmp_path / "none.pt")))
    video, first, _ = videos[0]
    with pytest.raises(ValueError, match="no file .*none.pt"):
        segmenters.segment([(video, (first,))])
    segmenters.close()


@pytest.mark.parametrize("kind", ["sam2", "grabcut"])
def test_a_long_video_file_is_read_in_pieces_with_the_same_masks_and_measures(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor's class itself. The file is one group of pictures, the hardest for seeking."""
    torch.manual_seed(0)
    model = sam2_build.build(TINY)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    sam2_build.save(tmp_path, model, TINY)
    file = tmp_path / "clip.mp4"
    scene = write_clip(file, seconds=3, side=112)
    video = probe(file)
    assert video.num_frames == 72

    thing = int(scene.areas_OF[:, 12].argmax())
    prompts = [box_prompt(frame, scene.boxes_OF4[thing, 12]) for frame in (0, 36, 38)]
    episodes: list[tuple[MaskPrompt, ...]] = [(prompts[1],), (prompts[2], prompts[0])]
    cfg = config(kind, str(tmp_path))
    # Not that of every frame; what matters is that both ways measure the same.
    shown_F = np.arange(72) % len(scene.owner_FHW)
    true_F = encode_frames(scene.owner_FHW[shown_F] == thing)
    sample = Sample("v/0", video, "it", (Target("0", true_F),))
    truths = [Truth(sample, frozenset({36})), None, Truth(sample, frozenset()), None]
    episodes += [episodes[1], ()]
    task = segmenter.VideoTask(video, tuple(episodes), tuple(truths))
    [whole] = segmenter.SegmenterActor(cfg, "cpu").segment([task])
    assert whole[0].masks_F[36] is not None
    assert whole[0].masks_F[30] is not None
    assert whole[0].masks_F[42] is not None
    assert whole[3] == Tracked((None,) * 72, {})
    for tracked, truth in zip(whole, truths, strict=True):
        expected: Mapping[str, float] = {}
        if truth is not None:
            expected = measure(sample, tracked.masks_F, truth.keyframes).scores
            assert 0 < expected["J&F"] < 1
        assert tracked.scores == expected, "to the last digit, as from the encoded masks"

    monkeypatch.setattr(segmenter, "WHOLE_BYTES", 0)
    monkeypatch.setattr("data.frames.reading.BLOCK", 10)
    # With another time stamp it is another file, unknown to the store of frames.
    os.utime(file, (1, 1))
    before = node_store().added
    assert segmenter.SegmenterActor(cfg, "cpu").segment([task]) == [whole]
    assert node_store().added == before + 72


@pytest.mark.parametrize("kind", ["sam2", "grabcut"])
def test_videos_of_any_sizes_together_have_the_masks_of_each_alone(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = sam2_build.build(TINY)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    sam2_build.save(tmp_path, model, TINY)
    tasks = []
    for number, (seconds, side) in enumerate([(1, 112), (2, 96), (1, 112)]):
        file = tmp_path / f"{number}.mp4"
        scene = write_clip(file, seconds, seed=number, side=side)
        thing = int(scene.areas_OF[:, 12].argmax())
        prompts = [box_prompt(frame, scene.boxes_OF4[thing, 12]) for frame in (3 * number, 20)]
        episodes = ((prompts[0],), (prompts[1], prompts[0]), ())
        tasks.append(segmenter.VideoTask(probe(file), episodes, (None, None, None)))
    cfg = config(kind, str(tmp_path))
    alone = []
    for task in tasks:
        alone += segmenter.SegmenterActor(cfg, "cpu").segment([task])
    assert all(tracked[0].masks_F != (None,) * len(tracked[0].masks_F) for tracked in alone)
    assert segmenter.SegmenterActor(cfg, "cpu").segment(tasks) == alone


def test_what_is_tracked_in_one_batch() -> None:
    small = segmenter.WHOLE_BYTES // 4
    sizes = [(2, small), (2, small), (1, small), (1, 2 * small), (9, small), (1, 9 * small)]
    runs = list(segmenter.fitting([*sizes, (1, small)], together=4))
    assert runs == [range(2), range(2, 4), range(4, 5), range(5, 6), range(6, 7)]
    assert list(segmenter.fitting([], together=4)) == []
