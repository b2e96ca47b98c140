"""Segmenter actors for real: videos on disk, a random tiny SAM 2 and GrabCut, two processes, a death."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from actors import segmenter
from actors.segmenter import SegmenterPool
from cluster.placement import place
from configs.schema import ClusterConfig, Config, SegmenterConfig
from core.masks import decode, union
from core.types import MaskPrompt, Video
from data.frames.frame_store import node_store
from data.frames.probing import probe
from data.frames.reading import read_frames
from models.segmenters import make, sam2_build
from tiny.world.clip import write_clip
from tiny.world.scene import random_scene


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Video, MaskPrompt, MaskPrompt]]:
    """Three short videos as JPEG folders, each with two prompts."""
    found: list[tuple[Video, MaskPrompt, MaskPrompt]] = []
    for i in range(3):
        folder = tmp_path_factory.mktemp(f"v{i}")
        made = random_scene(np.random.default_rng(i))
        for f, frame in enumerate(made.frames_FHWC[:10]):
            cv2.imwrite(
                str(folder / f"{f:05d}.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]
            )
        video = Video(
            f"v{i}", str(folder), tuple(f"{f:05d}" for f in range(10)), *made.frames_FHWC.shape[1:3]
        )
        spots = np.argwhere(made.areas_OF[:, :10] > 100)
        first, last = (
            MaskPrompt(int(f), cast(Any, tuple(float(v) for v in made.boxes_OF4[o, f])))
            for o, f in spots[[0, -1]]
        )
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
    model = sam2_build.build(sam2_build.TINY)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    sam2_build.save(folder, model, sam2_build.TINY)
    started = start(config("sam2", str(folder), workers=2))
    yield started, folder
    started.close()


def test_masks_come_back_in_order_and_as_the_segmenter_alone_makes_them(
    pool: tuple[SegmenterPool, Path], videos: list[tuple[Video, MaskPrompt, MaskPrompt]]
) -> None:
    segmenters, folder = pool
    jobs = [(v, (a, b)[:count]) for count in (0, 1, 2) for v, a, b in videos]
    masks = segmenters.segment(jobs)
    assert len(masks) == 9
    alone = make("sam2", {"path": str(folder)})
    for (video, prompts), rles_F in zip(jobs, masks, strict=True):
        assert len(rles_F) == 10
        if not prompts:
            assert rles_F == (None,) * 10
            continue
        expected_FHW = alone.segment(read_frames(video, range(10)), prompts).max(0)
        for rle, expected in zip(rles_F, expected_FHW, strict=True):
            got = np.zeros_like(expected) if rle is None else decode(rle)
            assert (got != expected).mean() < 1e-3  # other batches, other rounding
            assert rle is None or got.any()
    for one, both in zip(masks[3:6], masks[6:9], strict=True):
        assert all(union([a, b]) == b for a, b in zip(one, both, strict=True))


def test_no_jobs_and_no_prompts_need_no_work(
    pool: tuple[SegmenterPool, Path], videos: list[tuple[Video, MaskPrompt, MaskPrompt]]
) -> None:
    assert pool[0].segment([]) == []
    assert pool[0].segment([(videos[0][0], ())]) == [(None,) * 10]


def test_errors_reach_the_driver(
    pool: tuple[SegmenterPool, Path], videos: list[tuple[Video, MaskPrompt, MaskPrompt]]
) -> None:
    with pytest.raises(ValueError, match="prompt on frame 10 of a video of 10 frames"):
        pool[0].segment([(videos[0][0], (MaskPrompt(10, (1.0, 1.0, 5.0, 5.0)),))])


def test_grabcut_survives_the_death_of_its_actor(
    ray_env: dict[str, str], videos: list[tuple[Video, MaskPrompt, MaskPrompt]]
) -> None:
    segmenters = start(config("grabcut"))
    jobs = [(video, (first,)) for video, first, _ in videos]
    before = segmenters.segment(jobs)
    assert all(
        masks_F[prompts[0].frame] is not None
        for masks_F, (_, prompts) in zip(before, jobs, strict=True)
    )
    segmenters.workers[0].kill()
    assert segmenters.segment(jobs) == before
    segmenters.close()


def test_an_actor_that_cannot_start_says_why(
    ray_env: dict[str, str], videos: list[tuple[Video, MaskPrompt, MaskPrompt]], tmp_path: Path
) -> None:
    segmenters = start(config("sam2", str(tmp_path / "none.pt")))
    with pytest.raises(RuntimeError, match="no file .*none.pt"):
        segmenters.segment([(videos[0][0], (videos[0][1],))])
    segmenters.close()


@pytest.mark.parametrize("kind", ["sam2", "grabcut"])
def test_a_long_video_file_is_read_in_pieces_with_the_same_masks(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor's class itself: what is long is a constant. One group of pictures, so that seeking back is hardest."""
    torch.manual_seed(0)
    model = sam2_build.build(sam2_build.TINY)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    sam2_build.save(tmp_path, model, sam2_build.TINY)
    made = write_clip(tmp_path / "clip.mp4", seconds=3, side=112)
    thing = int(made.areas_OF[:, 12].argmax())
    box = tuple(float(v) for v in made.boxes_OF4[thing, 12])
    jobs = [(MaskPrompt(36, box),), (MaskPrompt(38, box), MaskPrompt(0, box))]  # type: ignore[arg-type]
    video = probe(tmp_path / "clip.mp4")
    cfg = config(kind, str(tmp_path))
    assert video.num_frames == 72
    whole = segmenter.SegmenterActor(cfg, "cpu").segment(video, jobs)
    assert whole[0][36] is not None
    assert whole[0][30] is not None
    assert whole[0][42] is not None

    monkeypatch.setattr(segmenter, "WHOLE_BYTES", 0)
    monkeypatch.setattr("data.frames.reading.BLOCK", 10)
    os.utime(tmp_path / "clip.mp4", (1, 1))  # as another file: the store of frames does not know it
    before = node_store().added
    assert segmenter.SegmenterActor(cfg, "cpu").segment(video, jobs) == whole
    assert node_store().added == before + 72
