"""Synthetic scenes, their sentences and the folder they are written to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from configs.load import load as load_config
from core.masks import decode
from data.frames.reading import read_frames
from data.readers.mevis import read_mevis
from tiny.world import write
from tiny.world.queries import KINDS, MIX, Query, description, pick_query, queries
from tiny.world.scene import COLOURS, LENGTHS, MIN_VISIBLE, NUM_FRAMES, SIDE, Scene, random_scene
from tiny.world.write import write_dataset, write_split


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(7)
    return [random_scene(rng) for _ in range(60)]


def test_same_seed_same_scene() -> None:
    one = random_scene(np.random.default_rng(3))
    two = random_scene(np.random.default_rng(3))
    assert one.things == two.things
    assert (one.frames_FHWC == two.frames_FHWC).all()
    assert (one.owner_FHW == two.owner_FHW).all()


def test_the_scenes_of_a_seed_stay_what_they_are() -> None:
    """Figures measured on the data set stay valid only while every random draw keeps its place."""
    scene = random_scene(np.random.default_rng(1))
    things = []
    for t in scene.things:
        things.append((t.name, t.motion, t.trend, t.start, t.stop))
    assert things == [
        ("green diamond", "moves left", "keeps growing", 14, 24),
        ("purple circle", "moves up", "pulses", 13, 23),
        ("red diamond", "moves up", "keeps shrinking", 0, 8),
        ("white square", "moves up", "pulses", 5, 18),
    ]


def test_long_videos_show_a_shape_in_one_or_two_of_16_frames_from_all_over() -> None:
    rng = np.random.default_rng(2)
    seen_frames: list[int] = []
    sampled = np.linspace(0, 95, 16).astype(int)
    for _ in range(30):
        scene = random_scene(rng, LENGTHS["long"])
        assert scene.frames_FHWC.shape == (96, SIDE, SIDE, 3)
        assert len(scene.owner_FHW) == 96
        for i, thing in enumerate(scene.things):
            assert 8 <= thing.stop - thing.start <= 12
            pixels_F = (scene.owner_FHW == i).sum((1, 2))
            visible_F = scene.areas_OF[i] > 0
            assert (pixels_F[visible_F] == scene.areas_OF[i][visible_F]).all()
            assert not pixels_F[: thing.start].any()
            assert not pixels_F[thing.stop :].any()
            seen_frames.append(int(visible_F[sampled].sum()))
        # Background and noise are in every frame.
        assert len(np.unique(scene.frames_FHWC[0])) > 10
        assert len(np.unique(scene.frames_FHWC[95])) > 10
    assert max(seen_frames) <= 2
    assert np.mean(np.array(seen_frames) == 0) < 0.1


def test_boxes_and_areas_are_those_of_the_visible_pixels(scenes: list[Scene]) -> None:
    for scene in scenes[:10]:
        assert scene.frames_FHWC.shape == (NUM_FRAMES, SIDE, SIDE, 3)
        assert scene.frames_FHWC.dtype == np.uint8
        for i, thing in enumerate(scene.things):
            for frame in np.flatnonzero(scene.areas_OF[i]):
                rows, columns = np.nonzero(scene.owner_FHW[frame] == i)
                low = (columns.min(), rows.min())
                high = (columns.max() + 1, rows.max() + 1)
                assert scene.areas_OF[i, frame] == len(rows)
                assert tuple(scene.boxes_OF4[i, frame]) == (*low, *high)
                assert (
                    np.abs(
                        np.median(scene.frames_FHWC[frame][rows, columns], 0)
                        - COLOURS[thing.colour]
                    ).max()
                    < 40
                )
            assert (scene.areas_OF[i, : thing.start] == 0).all()
            assert (scene.areas_OF[i, thing.stop :] == 0).all()


def test_things_are_distinct_and_seen(scenes: list[Scene]) -> None:
    for scene in scenes:
        colours = [thing.colour for thing in scene.things]
        assert 3 <= len(colours) <= 5
        assert len(set(colours)) == len(colours)
        assert ((scene.areas_OF > 0).sum(1) >= MIN_VISIBLE).all()


def test_no_fixed_guess_is_good(scenes: list[Scene]) -> None:
    """Share of the best area that a fixed frame shows: far below what any visible frame shows."""
    share_F = np.concatenate(
        [scene.areas_OF / scene.areas_OF.max(1, keepdims=True) for scene in scenes]
    )
    visible = share_F[share_F > 0].mean()
    assert share_F.mean(0).max() < 0.4 < visible < 0.6
    largest_is_target = []
    for i, scene in enumerate(scenes):
        query = pick_query(np.random.default_rng(i), queries(scene))
        largest_is_target.append(scene.areas_OF.max(1).argmax() in query.objects)
    assert np.mean(largest_is_target) < 0.5
    peaks = np.array([row.argmax() for scene in scenes for row in scene.areas_OF])
    assert np.histogram(peaks, 4, (0, NUM_FRAMES))[0].max() < 0.4 * len(peaks)


def _by_text(scenes: list[Scene]) -> list[tuple[Scene, Query]]:
    return [(scene, query) for scene in scenes for query in queries(scene)]


def test_every_kind_occurs_and_texts_are_unique(scenes: list[Scene]) -> None:
    assert {query.kind for _, query in _by_text(scenes)} == set(KINDS) == set(MIX)
    for scene in scenes:
        texts = [query.text for query in queries(scene)]
        assert len(set(texts)) == len(texts)


def test_number_of_targets(scenes: list[Scene]) -> None:
    for scene, query in _by_text(scenes):
        allowed = {"several": (2, 3), "none": (0, 0)}
        low, high = allowed.get(query.kind, (1, 1))
        assert low <= len(query.objects) <= high
        names = [scene.things[i].name for i in query.objects]
        assert all(f"the {name}" in query.thought for name in names) or query.kind == "relation"
        assert description(scene, query) == " and ".join(names)


def test_order_holds_with_a_margin(scenes: list[Scene]) -> None:
    for scene, query in _by_text(scenes):
        if query.kind != "order":
            continue
        frames = [np.flatnonzero(row) for row in scene.areas_OF]
        when = [f[0] if "appears" in query.text else f[-1] for f in frames]
        rest = [w for i, w in enumerate(when) if i != query.objects[0]]
        ahead = (
            min(rest) - when[query.objects[0]]
            if "first" in query.text
            else when[query.objects[0]] - max(rest)
        )
        assert ahead >= 2


def test_relation_holds_in_every_shared_frame(scenes: list[Scene]) -> None:
    found = 0
    for scene, query in _by_text(scenes):
        if query.kind != "relation" or "left of" not in query.text:
            continue
        anchor = next(i for i, thing in enumerate(scene.things) if query.text.endswith(thing.name))
        shared = (scene.areas_OF[anchor] > 0) & (scene.areas_OF[query.objects[0]] > 0)
        centre_OF = (scene.boxes_OF4[..., 0] + scene.boxes_OF4[..., 2]) / 2
        assert shared.sum() >= 3
        assert (centre_OF[query.objects[0], shared] + 10 <= centre_OF[anchor, shared]).all()
        found += 1
    assert found > 5


def test_motion_is_what_the_box_does() -> None:
    rng = np.random.default_rng(11)
    checked = 0
    for _ in range(20):
        scene = random_scene(rng)
        for i, thing in enumerate(scene.things):
            seen = np.flatnonzero(scene.areas_OF[i])
            if thing.motion == "moves left" and scene.hides_OO[:, i].max() < 0.2:
                centre = (scene.boxes_OF4[i, seen, 0] + scene.boxes_OF4[i, seen, 2]) / 2
                assert centre[0] - centre[-1] > 20
                checked += 1
    assert checked > 3


def test_a_mix_without_a_kind_at_hand_is_refused(scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match="colour"):
        pick_query(np.random.default_rng(0), queries(scenes[0]), {"colour": 1.0})


def _bytes(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("mp4", [False, True])
def test_written_split_repeats_to_the_byte(tmp_path: Path, mp4: bool) -> None:
    for name in ("a", "b"):
        write_split(tmp_path / name, "train", 1, 2, 3, mp4=mp4)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    write_split(tmp_path / "a", "valid", 1, 2, 3, mp4=mp4)
    folder = "Videos" if mp4 else "JPEGImages"
    train, valid = (
        list(_bytes(tmp_path / "a" / split / folder).values()) for split in ("train", "valid")
    )
    assert not set(train) & set(valid)
    # No unfinished folder is left.
    assert not list((tmp_path / "a").glob(".*"))
    with pytest.raises(ValueError, match="exists already"):
        write_split(tmp_path / "a", "train", 1, 2, 3)


@pytest.mark.parametrize("mp4", [False, True])
def test_reader_gives_back_the_scene(tmp_path: Path, mp4: bool) -> None:
    write_split(tmp_path, "train", 4, 2, 6, mp4=mp4)
    seed = np.random.SeedSequence([4, *b"train"]).spawn(2)[0]
    scene = random_scene(np.random.default_rng(seed))
    meta = json.loads((tmp_path / "train" / "meta_expressions.json").read_text())["videos"][
        "train00000"
    ]
    samples = [
        sample for sample in read_mevis(tmp_path, "train") if sample.video.uid == "train00000"
    ]
    assert [sample.query for sample in samples] == [e["exp"] for e in meta["expressions"].values()]
    pixels = read_frames(samples[0].video, list(range(NUM_FRAMES)))
    assert np.abs(pixels.astype(int) - scene.frames_FHWC).mean() < 4
    for sample, expression in zip(samples, meta["expressions"].values(), strict=True):
        assert len(sample.targets) == len(expression["obj_id"])
        assert sample.notes.thought == expression["thought"]
        assert sample.notes.names == tuple(expression["names"])
        for target, index in zip(sample.targets, expression["obj_id"], strict=True):
            for frame, rle in enumerate(target.masks_F):
                assert (rle is not None) == (scene.areas_OF[index, frame] > 0)
                if rle is not None:
                    assert (decode(rle) == (scene.owner_FHW[frame] == index)).all()


def test_long_videos_have_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write.Split("train", 1, 2)
    monkeypatch.setattr(write, "SPLITS", (train, write.Split("mp4", 1, 2, mp4=True)))
    monkeypatch.setattr(write, "LONG_SPLITS", (train, write.Split("test", 1, 2)))
    short = tmp_path / "synthetic"
    long = tmp_path / "synthetic_long"
    write_dataset(short)
    write_dataset(long, length="long")
    before = _bytes(tmp_path)
    # All splits exist already.
    write_dataset(long, length="long")
    for root, length, told in (
        (short, "long", "24 frames.*makes some of 96"),
        (long, "short", "96 frames"),
    ):
        with pytest.raises(ValueError, match=f"{told}.*data.root of their own"):
            write_dataset(root, length=length)
    assert _bytes(tmp_path) == before
    assert {path.name for path in long.iterdir()} == {"train", "test"}
    (sample, *_) = read_mevis(long, "test")
    assert sample.video.num_frames == 96
    assert read_frames(sample.video, [95]).any()
    assert sum(rle is not None for rle in sample.targets[0].masks_F) <= 12


def test_the_settings_name_every_length() -> None:
    assert {
        load_config(["revseg_tiny", f"data.length={name}"]).data.length for name in LENGTHS
    } == set(LENGTHS)
    with pytest.raises(ValueError, match=r"data.length=.*: expected one of short \| long"):
        load_config(["revseg_tiny", "data.length=longer"])
