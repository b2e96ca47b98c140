"""Sentences that are true of a scene, with the things they mean.

Every sentence is unambiguous with a margin: a sentence that another thing nearly fulfils too is left out.
This file knows no pixels, no file format and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tiny.world.scene import COLOURS, MOTIONS, SHAPES, Scene, Thing

FRAME_MARGIN = 2  # frames between the first and the second to appear or to leave
SIZE_MARGIN = 1.35  # ratio of largest visible sizes, box and pixels
RELATION_MARGIN = 10  # pixels between centres
HIDING_SHARE = 0.3  # of the hidden thing
MOST_TARGETS = 3

KINDS = ("look", "motion", "order", "size", "relation", "hiding", "several", "none")
MIX: Mapping[str, float] = {
    "look": 0.52,
    "motion": 0.08,
    "order": 0.2,
    "size": 0.06,
    "relation": 0.04,
    "hiding": 0.02,
    "several": 0.06,
    "none": 0.02,
}
_PLURAL = {"moves": "move", "stays": "stay", "keeps": "keep"}
_RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


@dataclass(frozen=True)
class Query:
    """A sentence about a scene."""

    text: str
    objects: tuple[int, ...]  # indices of the things it means; empty: it means none
    kind: str
    thought: str  # one sentence of reasoning that leads to the answer


def queries(scene: Scene) -> list[Query]:
    """All sentences that hold, in a fixed order."""
    return [
        *_look(scene),
        *_traits(scene),
        *_order(scene),
        *_biggest(scene),
        *_relations(scene),
        *_hiding(scene),
        *_several(scene),
        *_none(scene),
    ]


def sample_query(rng: np.random.Generator, scene: Scene, mix: Mapping[str, float] = MIX) -> Query:
    """One sentence: first a kind by its weight among those the scene has, then one of that kind."""
    return pick_query(rng, queries(scene), mix)


def pick_query(
    rng: np.random.Generator, options: list[Query], mix: Mapping[str, float] = MIX
) -> Query:
    """As `sample_query`, from a list made before. ValueError if the mix gives weight to no kind in it."""
    by_kind: dict[str, list[Query]] = {}
    for query in options:
        by_kind.setdefault(query.kind, []).append(query)
    kinds = [kind for kind in by_kind if mix.get(kind, 0) > 0]
    if not kinds:
        raise ValueError(
            f"mix {dict(mix)} gives no weight to any of {sorted(by_kind)}; add 'look', which always holds"
        )
    weights = np.array([mix[kind] for kind in kinds])
    chosen = by_kind[kinds[rng.choice(len(kinds), p=weights / weights.sum())]]
    return chosen[rng.integers(len(chosen))]


def description(scene: Scene, query: Query) -> str:
    """What is looked for, by appearance: "red circle", or "red circle and blue circle"."""
    return " and ".join(scene.things[i].name for i in query.objects)


def sentences() -> list[str]:
    """Text that holds every word of every query and thought: for training a tokenizer."""
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    deeds = [*MOTIONS, "keeps growing", "keeps shrinking", *_ORDERS, *_SIZES]
    lines = names + [f"the {name} {deed}" for name in names for deed in deeds]
    lines += [
        f"all shapes that {_plural(deed)}"
        for deed in (*MOTIONS, "keeps growing", "keeps shrinking")
    ]
    lines += [f"the shape {relation} the {name}" for relation in _RELATIONS for name in names]
    lines += [
        f"the shape that hides the {name}; the {name} and the {name}; no {name}" for name in names
    ]
    lines += [f"the {name} is {relation} it" for name in names for relation in _RELATIONS]
    return (
        lines
        + [f"all {shape}s; the shape that {deed}" for shape in SHAPES for deed in deeds]
        + ["there is no"]
    )


def _look(scene: Scene) -> list[Query]:
    return [
        Query(f"the {t.name}", (i,), "look", f"the {t.name}") for i, t in enumerate(scene.things)
    ]


def _with(scene: Scene, deed: str) -> tuple[int, ...]:
    return tuple(i for i, thing in enumerate(scene.things) if deed in (thing.motion, thing.trend))


def _one(scene: Scene, deed: str, index: int, kind: str) -> Query:
    return Query(f"the shape that {deed}", (index,), kind, f"the {scene.things[index].name} {deed}")


def _traits(scene: Scene) -> list[Query]:
    found = []
    for deed in (*MOTIONS, "keeps growing", "keeps shrinking"):
        indices = _with(scene, deed)
        if len(indices) == 1:
            found.append(_one(scene, deed, indices[0], "motion" if deed in MOTIONS else "size"))
    return found


_ORDERS = {
    "appears first": (0, 1),
    "appears last": (0, -1),
    "leaves first": (1, 1),
    "leaves last": (1, -1),
}
_SIZES = {"gets the biggest": -1, "stays the smallest": 1}


def _order(scene: Scene) -> list[Query]:
    visible_OF = scene.areas_OF > 0
    first_O = visible_OF.argmax(1)
    last_O = visible_OF.shape[1] - 1 - visible_OF[:, ::-1].argmax(1)
    found = []
    for deed, (end, sign) in _ORDERS.items():
        when_O = (first_O, last_O)[end] * sign
        by_time = np.argsort(when_O, kind="stable")
        if when_O[by_time[1]] - when_O[by_time[0]] >= FRAME_MARGIN:
            found.append(_one(scene, deed, int(by_time[0]), "order"))
    return found


def _biggest(scene: Scene) -> list[Query]:
    sides_OF2 = scene.boxes_OF4[..., 2:] - scene.boxes_OF4[..., :2]
    box_O = sides_OF2.prod(-1).max(1)
    area_O = scene.areas_OF.max(1).astype(np.float64)
    found = []
    for deed, sign in _SIZES.items():
        by_size = np.argsort(sign * box_O, kind="stable")
        ratios = [
            float(size_O[by_size[0]] / np.delete(size_O, by_size[0])[k])
            for size_O in (box_O, area_O)
            for k in [np.argmin(sign * np.delete(size_O, by_size[0]))]
        ]
        if all(ratio**-sign >= SIZE_MARGIN for ratio in ratios):
            found.append(_one(scene, deed, int(by_size[0]), "size"))
    return found


def _relations(scene: Scene) -> list[Query]:
    """ "left of" holds if it does, by RELATION_MARGIN, in every frame that shows both; at least 3 frames must."""
    visible_OF = scene.areas_OF > 0
    centre_OF2 = (scene.boxes_OF4[..., :2] + scene.boxes_OF4[..., 2:]) / 2
    away_OO1F = ~(visible_OF[:, None] & visible_OF[None])
    shared_OO = (~away_OO1F).sum(-1)
    gap_OOF2 = centre_OF2[:, None] - centre_OF2[None]
    others = 1 - np.eye(len(scene.things), dtype=bool)
    found = []
    for words, (axis, sign) in _RELATIONS.items():
        gap_OOF = sign * gap_OOF2[..., axis]
        holds_OO = (
            (away_OO1F | (gap_OOF >= RELATION_MARGIN)).all(-1) & (shared_OO >= 3) & (others > 0)
        )
        fails_OO = (away_OO1F | (gap_OOF <= 0)).all(-1) | (others == 0)
        for anchor in np.flatnonzero((holds_OO.sum(0) == 1) & ((holds_OO | fails_OO).all(0))):
            index = int(holds_OO[:, anchor].argmax())
            name = scene.things[anchor].name
            thought = f"the {scene.things[index].name} is {words} it"
            found.append(Query(f"the shape {words} the {name}", (index,), "relation", thought))
    return found


def _hiding(scene: Scene) -> list[Query]:
    found = []
    for j, hidden in enumerate(scene.things):
        share_O = scene.hides_OO[:, j]
        over = np.flatnonzero(share_O >= HIDING_SHARE)
        if len(over) == 1 and (np.delete(share_O, over[0]) < HIDING_SHARE / 3).all():
            found.append(_one(scene, f"hides the {hidden.name}", int(over[0]), "hiding"))
    return found


def _plural(deed: str) -> str:
    verb, rest = deed.split(" ", 1)
    return f"{_PLURAL.get(verb, verb)} {rest}"


def _several(scene: Scene) -> list[Query]:
    groups = {f"all {shape}s": _shaped(scene.things, shape) for shape in SHAPES}
    for deed in (*MOTIONS, "keeps growing", "keeps shrinking"):
        groups[f"all shapes that {_plural(deed)}"] = _with(scene, deed)
    found = []
    for text, indices in groups.items():
        if 2 <= len(indices) <= MOST_TARGETS:
            names = " and ".join(f"the {scene.things[i].name}" for i in indices)
            deed = text.partition(" that ")[2]
            found.append(Query(text, indices, "several", f"{names} {deed}".strip()))
    return found


def _shaped(things: tuple[Thing, ...], shape: str) -> tuple[int, ...]:
    return tuple(i for i, thing in enumerate(things) if thing.shape == shape)


def _none(scene: Scene) -> list[Query]:
    here = {thing.name for thing in scene.things}
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return [
        Query(f"the {name}", (), "none", f"there is no {name}")
        for name in names
        if name not in here
    ]
