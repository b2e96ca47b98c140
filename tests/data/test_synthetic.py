"""Synthetic scenes, their sentences and the folder they are written to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.masks import decode
from data.frames import read_frames
from data.mevis import read
from data.synthetic.queries import KINDS, MIX, Query, description, queries, sample_query
from data.synthetic.scene import COLOURS, MIN_VISIBLE, NUM_FRAMES, SIDE, Scene, scene
from data.synthetic.write import write_split


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(7)
    return [scene(rng) for _ in range(60)]


def test_same_seed_same_scene() -> None:
    one, two = (scene(np.random.default_rng(3)) for _ in range(2))
    assert one.things == two.things
    assert (one.frames_FHWC == two.frames_FHWC).all() and (one.owner_FHW == two.owner_FHW).all()


def test_boxes_and_areas_are_those_of_the_visible_pixels(scenes: list[Scene]) -> None:
    for made in scenes[:10]:
        assert made.frames_FHWC.shape == (NUM_FRAMES, SIDE, SIDE, 3) and made.frames_FHWC.dtype == np.uint8
        for i, thing in enumerate(made.things):
            for frame in np.flatnonzero(made.areas_OF[i]):
                rows, columns = np.nonzero(made.owner_FHW[frame] == i)
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert made.areas_OF[i, frame] == len(rows) and tuple(made.boxes_OF4[i, frame]) == box
                assert np.abs(np.median(made.frames_FHWC[frame][rows, columns], 0) - COLOURS[thing.colour]).max() < 40
            assert (made.areas_OF[i, : thing.start] == 0).all() and (made.areas_OF[i, thing.stop :] == 0).all()


def test_things_are_distinct_and_seen(scenes: list[Scene]) -> None:
    for made in scenes:
        colours = [thing.colour for thing in made.things]
        assert 3 <= len(colours) <= 5 and len(set(colours)) == len(colours)
        assert ((made.areas_OF > 0).sum(1) >= MIN_VISIBLE).all()


def test_no_fixed_guess_is_good(scenes: list[Scene]) -> None:
    """Share of the best area that a fixed frame shows: far below what any visible frame shows."""
    share_F = np.concatenate([made.areas_OF / made.areas_OF.max(1, keepdims=True) for made in scenes])
    visible = share_F[share_F > 0].mean()
    assert share_F.mean(0).max() < 0.4 < visible < 0.6
    largest = [made.areas_OF.max(1).argmax() in sample_query(np.random.default_rng(i), made).objects
               for i, made in enumerate(scenes)]  # fmt: skip
    assert np.mean(largest) < 0.5
    peaks = np.array([row.argmax() for made in scenes for row in made.areas_OF])
    assert np.histogram(peaks, 4, (0, NUM_FRAMES))[0].max() < 0.4 * len(peaks)


def _by_text(scenes: list[Scene]) -> list[tuple[Scene, Query]]:
    return [(made, query) for made in scenes for query in queries(made)]


def test_every_kind_occurs_and_texts_are_unique(scenes: list[Scene]) -> None:
    assert {query.kind for _, query in _by_text(scenes)} == set(KINDS) == set(MIX)
    for made in scenes:
        texts = [query.text for query in queries(made)]
        assert len(set(texts)) == len(texts)


def test_number_of_targets(scenes: list[Scene]) -> None:
    for made, query in _by_text(scenes):
        low, high = {"several": (2, 3), "none": (0, 0)}.get(query.kind, (1, 1))
        assert low <= len(query.objects) <= high
        names = [made.things[i].name for i in query.objects]
        assert all(f"the {name}" in query.thought for name in names) or query.kind == "relation"
        assert description(made, query) == " and ".join(names)


def test_order_holds_with_a_margin(scenes: list[Scene]) -> None:
    for made, query in _by_text(scenes):
        if query.kind != "order":
            continue
        frames = [np.flatnonzero(row) for row in made.areas_OF]
        when = [f[0] if "appears" in query.text else f[-1] for f in frames]
        rest = [w for i, w in enumerate(when) if i != query.objects[0]]
        ahead = min(rest) - when[query.objects[0]] if "first" in query.text else when[query.objects[0]] - max(rest)
        assert ahead >= 2


def test_relation_holds_in_every_shared_frame(scenes: list[Scene]) -> None:
    found = 0
    for made, query in _by_text(scenes):
        if query.kind != "relation" or "left of" not in query.text:
            continue
        anchor = next(i for i, thing in enumerate(made.things) if query.text.endswith(thing.name))
        shared = (made.areas_OF[anchor] > 0) & (made.areas_OF[query.objects[0]] > 0)
        centre_OF = (made.boxes_OF4[..., 0] + made.boxes_OF4[..., 2]) / 2
        assert shared.sum() >= 3
        assert (centre_OF[query.objects[0], shared] + 10 <= centre_OF[anchor, shared]).all()
        found += 1
    assert found > 5


def test_motion_is_what_the_box_does() -> None:
    rng, checked = np.random.default_rng(11), 0
    for made in (scene(rng) for _ in range(20)):
        for i, thing in enumerate(made.things):
            seen = np.flatnonzero(made.areas_OF[i])
            if thing.motion == "moves left" and made.hides_OO[:, i].max() < 0.2:
                centre = (made.boxes_OF4[i, seen, 0] + made.boxes_OF4[i, seen, 2]) / 2
                assert centre[0] - centre[-1] > 20
                checked += 1
    assert checked > 3


def test_a_mix_without_a_kind_at_hand_is_refused(scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match="colour"):
        sample_query(np.random.default_rng(0), scenes[0], {"colour": 1.0})


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("mp4", [False, True])
def test_written_split_repeats_to_the_byte(tmp_path: Path, mp4: bool) -> None:
    for name in ("a", "b"):
        write_split(tmp_path / name, "train", 1, 2, 3, mp4=mp4)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    write_split(tmp_path / "a", "valid", 1, 2, 3, mp4=mp4)
    folder = "Videos" if mp4 else "JPEGImages"
    train, valid = (list(_bytes(tmp_path / "a" / split / folder).values()) for split in ("train", "valid"))
    assert not set(train) & set(valid)
    assert not list((tmp_path / "a").glob(".*"))  # no unfinished folder is left
    with pytest.raises(ValueError, match="exists already"):
        write_split(tmp_path / "a", "train", 1, 2, 3)


@pytest.mark.parametrize("mp4", [False, True])
def test_reader_gives_back_the_scene(tmp_path: Path, mp4: bool) -> None:
    write_split(tmp_path, "train", 4, 2, 6, mp4=mp4)
    made = scene(np.random.default_rng(np.random.SeedSequence([4, *b"train"]).spawn(2)[0]))
    meta = json.loads((tmp_path / "train" / "meta_expressions.json").read_text())["videos"]["train00000"]
    samples = [sample for sample in read(tmp_path, "train") if sample.video.uid == "train00000"]
    assert [sample.query for sample in samples] == [e["exp"] for e in meta["expressions"].values()]
    pixels = read_frames(samples[0].video, list(range(NUM_FRAMES)))
    assert np.abs(pixels.astype(int) - made.frames_FHWC).mean() < 4
    for sample, expression in zip(samples, meta["expressions"].values(), strict=True):
        assert len(sample.targets) == len(expression["obj_id"])
        assert sample.notes["thought"] == expression["thought"] and sample.notes["names"] == expression["names"]
        for target, index in zip(sample.targets, expression["obj_id"], strict=True):
            for frame, rle in enumerate(target.masks_F):
                assert (rle is not None) == (made.areas_OF[index, frame] > 0)
                if rle is not None:
                    assert (decode(rle) == (made.owner_FHW[frame] == index)).all()
