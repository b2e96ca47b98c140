"""True sentences about a scene, with the things they refer to.

Every sentence is unambiguous with a margin: if another thing nearly fulfils it too, it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tiny.world.scene import COLOURS, MOTIONS, SHAPES, Scene

# Frames between the first and the second thing to appear or to leave.
FRAME_MARGIN = 2
# Ratio of the largest visible sizes, by box and by pixels.
SIZE_MARGIN = 1.35
# Pixels between centres.
RELATION_MARGIN = 10
# Share of the hidden thing.
HIDING_SHARE = 0.3
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

_DEEDS = (*MOTIONS, "keeps growing", "keeps shrinking")
# For each deed: does it compare last frames instead of first ones, and the sign of the order.
_ORDERS = {
    "appears first": (False, 1),
    "appears last": (False, -1),
    "leaves first": (True, 1),
    "leaves last": (True, -1),
}
_SIZES = {"gets the biggest": -1, "stays the smallest": 1}
# For each relation: the axis of the centres, and the sign of the gap.
_RELATIONS = {
    "left of": (0, -1),
    "right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}
_PLURAL = {"moves": "move", "stays": "stay", "keeps": "keep"}


@dataclass(frozen=True)
class Query:
    """A sentence about a scene.

    Attributes:
        text: The sentence.
        objects: Indices of the things it refers to; empty if it refers to none.
        kind: One of KINDS.
        thought: One sentence of reasoning that leads to the answer.
    """

    text: str
    objects: tuple[int, ...]
    kind: str
    thought: str


def queries(scene: Scene) -> list[Query]:
    """Return all true sentences about a scene, in a fixed order."""
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


def pick_query(
    rng: np.random.Generator, options: list[Query], mix: Mapping[str, float] = MIX
) -> Query:
    """Draw a kind by its weight among those at hand, then a query of that kind.

    Raises:
        ValueError: `mix` gives weight to none of the kinds at hand.
    """
    by_kind: dict[str, list[Query]] = {}
    for query in options:
        by_kind.setdefault(query.kind, []).append(query)
    kinds = [kind for kind in by_kind if mix.get(kind, 0) > 0]
    if not kinds:
        raise ValueError(
            f"mix {dict(mix)} gives no weight to any of {sorted(by_kind)}; "
            "add 'look', which always holds"
        )

    weights = np.array([mix[kind] for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    same_kind = by_kind[kind]
    return same_kind[rng.integers(len(same_kind))]


def description(scene: Scene, query: Query) -> str:
    """Return the looks of a query's things: "red circle", or "red circle and blue circle"."""
    return " and ".join(scene.things[i].name for i in query.objects)


def sentences() -> list[str]:
    """Return text with every word of every query and thought, to train a tokenizer on."""
    names = _all_names()
    deeds = [*_DEEDS, *_ORDERS, *_SIZES]
    lines = list(names)
    for name in names:
        lines += [f"the {name} {deed}" for deed in deeds]
    lines += [f"all shapes that {_plural(deed)}" for deed in _DEEDS]
    for relation in _RELATIONS:
        lines += [f"the shape {relation} the {name}" for name in names]
    for name in names:
        lines.append(f"the shape that hides the {name}; the {name} and the {name}; no {name}")
    for name in names:
        lines += [f"the {name} is {relation} it" for relation in _RELATIONS]
    for shape in SHAPES:
        lines += [f"all {shape}s; the shape that {deed}" for deed in deeds]
    lines.append("there is no")
    return lines


def _all_names() -> list[str]:
    names = []
    for colour in COLOURS:
        names += [f"{colour} {shape}" for shape in SHAPES]
    return names


def _look(scene: Scene) -> list[Query]:
    found = []
    for index, thing in enumerate(scene.things):
        text = f"the {thing.name}"
        found.append(Query(text, (index,), "look", text))
    return found


def _doing(scene: Scene, deed: str) -> tuple[int, ...]:
    """Return the indices of the things with this motion or trend."""
    things = enumerate(scene.things)
    return tuple(i for i, thing in things if deed in (thing.motion, thing.trend))


def _deed_query(scene: Scene, deed: str, index: int, kind: str) -> Query:
    thought = f"the {scene.things[index].name} {deed}"
    return Query(f"the shape that {deed}", (index,), kind, thought)


def _traits(scene: Scene) -> list[Query]:
    found = []
    for deed in _DEEDS:
        indices = _doing(scene, deed)
        if len(indices) == 1:
            kind = "motion" if deed in MOTIONS else "size"
            found.append(_deed_query(scene, deed, indices[0], kind))
    return found


def _order(scene: Scene) -> list[Query]:
    visible_OF = scene.areas_OF > 0
    first_O = visible_OF.argmax(1)
    last_O = visible_OF.shape[1] - 1 - visible_OF[:, ::-1].argmax(1)

    found = []
    for deed, (leaves, sign) in _ORDERS.items():
        frame_O = last_O if leaves else first_O
        key_O = frame_O * sign
        winner, second = np.argsort(key_O, kind="stable")[:2]
        if key_O[second] - key_O[winner] >= FRAME_MARGIN:
            found.append(_deed_query(scene, deed, int(winner), "order"))
    return found


def _biggest(scene: Scene) -> list[Query]:
    """Return size queries: a thing must win by its largest box and its largest pixel count."""
    sides_OF2 = scene.boxes_OF4[..., 2:] - scene.boxes_OF4[..., :2]
    box_O = sides_OF2.prod(-1).max(1)
    area_O = scene.areas_OF.max(1).astype(np.float64)

    found = []
    for deed, sign in _SIZES.items():
        winner = int(np.argsort(sign * box_O, kind="stable")[0])
        margins = []
        for size_O in (box_O, area_O):
            others = np.delete(size_O, winner)
            second = others[np.argmin(sign * others)]
            ratio = float(size_O[winner] / second)
            margins.append(ratio**-sign)
        if min(margins) >= SIZE_MARGIN:
            found.append(_deed_query(scene, deed, winner, "size"))
    return found


def _relations(scene: Scene) -> list[Query]:
    """Return relation queries, by the centres in every frame with both things visible.

    "left of" holds if the gap is RELATION_MARGIN or more in all of them, and they are at least 3.
    """
    visible_OF = scene.areas_OF > 0
    centre_OF2 = (scene.boxes_OF4[..., :2] + scene.boxes_OF4[..., 2:]) / 2
    apart_OOF = ~(visible_OF[:, None] & visible_OF[None])
    shared_OO = (~apart_OOF).sum(-1)
    gap_OOF2 = centre_OF2[:, None] - centre_OF2[None]
    same_OO = np.eye(len(scene.things), dtype=bool)

    found = []
    for relation, (axis, sign) in _RELATIONS.items():
        gap_OOF = sign * gap_OOF2[..., axis]
        holds_OO = (apart_OOF | (gap_OOF >= RELATION_MARGIN)).all(-1)
        holds_OO &= (shared_OO >= 3) & ~same_OO
        fails_OO = (apart_OOF | (gap_OOF <= 0)).all(-1) | same_OO
        unique_O = (holds_OO.sum(0) == 1) & (holds_OO | fails_OO).all(0)
        for anchor in np.flatnonzero(unique_O):
            index = int(holds_OO[:, anchor].argmax())
            text = f"the shape {relation} the {scene.things[anchor].name}"
            thought = f"the {scene.things[index].name} is {relation} it"
            found.append(Query(text, (index,), "relation", thought))
    return found


def _hiding(scene: Scene) -> list[Query]:
    found = []
    for hidden, thing in enumerate(scene.things):
        share_O = scene.hides_OO[:, hidden]
        over = np.flatnonzero(share_O >= HIDING_SHARE)
        if len(over) != 1:
            continue
        others = np.delete(share_O, over[0])
        if (others < HIDING_SHARE / 3).all():
            found.append(_deed_query(scene, f"hides the {thing.name}", int(over[0]), "hiding"))
    return found


def _plural(deed: str) -> str:
    verb, rest = deed.split(" ", 1)
    return f"{_PLURAL.get(verb, verb)} {rest}"


def _several(scene: Scene) -> list[Query]:
    groups: dict[str, tuple[int, ...]] = {}
    for shape in SHAPES:
        things = enumerate(scene.things)
        groups[f"all {shape}s"] = tuple(i for i, thing in things if thing.shape == shape)
    for deed in _DEEDS:
        groups[f"all shapes that {_plural(deed)}"] = _doing(scene, deed)

    found = []
    for text, indices in groups.items():
        if 2 <= len(indices) <= MOST_TARGETS:
            names = " and ".join(f"the {scene.things[i].name}" for i in indices)
            deed = text.partition(" that ")[2]
            found.append(Query(text, indices, "several", f"{names} {deed}".strip()))
    return found


def _none(scene: Scene) -> list[Query]:
    present = {thing.name for thing in scene.things}
    found = []
    for name in _all_names():
        if name not in present:
            found.append(Query(f"the {name}", (), "none", f"there is no {name}"))
    return found
