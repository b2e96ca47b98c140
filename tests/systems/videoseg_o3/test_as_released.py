"""Rewards of VideoSEG-O3 as released, on thousands of well-formed and broken episodes.

`restated` says once more, with regular expressions, what the released functions do
(docs/spec/videoseg_o3.md, Rewards). It shares no code with the system.
"""

from __future__ import annotations

import ast
import json
import random
import re
import warnings

import torch

from systems.videoseg_o3.score import text_terms

VIDEOS = 400
EPISODES = 8
LENGTHS = (1, 2, 5, 8, 12, 16, 40)
KEYS = ["start", "end", "keyframe"]
NAMED = ["Step 1: a.", "step 2 b", "STEP 3", "Action: see."]
PIECES = [
    *("<think>", "</think>", "<THINK>", "</Think>", "<select>", "</select>", "<answer>"),
    *("</answer>", "<VTG>", "</VTG>", "<RefSeg>", "</RefSeg>", "[SEG]", "\n", "text", *NAMED),
]
ODD_NUMBERS = [
    *('"5"', "'4'", '" 6 "', '"3_0"', '"8.0"', '"x"', "2.9", "-0.5", "-3", "40", "1e999", "NaN"),
    *("true", "True", "null", "None", "[1]", "1+2j", 'b"4"'),
]


# --- episodes


def written_look(rng: random.Random) -> str:
    """A look, with a slip in about half of the cases."""
    keys = list(KEYS)
    if rng.random() < 0.1:
        keys.remove(rng.choice(keys))
    if rng.random() < 0.1:
        keys.append("note")
    quote = rng.choice(['"', '"', '"', "'"])
    entries = []
    for key in keys:
        number = rng.choice(ODD_NUMBERS) if rng.random() < 0.1 else rng.randint(0, 14)
        entries.append(f"{quote}{key}{quote}: {number}")
    body = "{" + ", ".join(entries) + "}"
    slips = [f"[{body}]", body[:-1], f"```json\n{body}\n```", f" \n{body} "]
    return rng.choice(slips) if rng.random() < 0.1 else body


def written_turn(rng: random.Random) -> str:
    """A turn: in full form, with a piece lost, doubled or out of place, or a heap of pieces."""
    if rng.random() < 0.1:
        heap = [rng.choice([*PIECES, f"<VTG>{written_look(rng)}</VTG>"]) for _ in range(10)]
        return "".join(heap)

    action = rng.choice(["select", "answer"])
    named = [step for step in NAMED if rng.random() < 0.9]
    pieces = [
        f"<think>{' '.join(named)}</think>",
        rng.choice(["", "", "\n", "so "]),
        f"<{action}>",
        f"<VTG>{written_look(rng)}</VTG>",
        "<RefSeg>[SEG]</RefSeg>",
        f"</{action}>",
        rng.choice(["", "", " bye"]),
    ]
    if rng.random() < 0.3:
        place = rng.randrange(len(pieces))
        moved = pieces.pop(place)
        if rng.random() < 0.5:
            pieces.insert(rng.randrange(len(pieces) + 1), moved)
    if rng.random() < 0.1:
        pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(PIECES))
    text = "".join(pieces)
    return text + written_turn(rng) if rng.random() < 0.1 else text


# --- the released functions, once more


def restated_look(text: str, num_frames: int) -> tuple[int, int, int] | None:
    inside = r"<(?P<tag>select|answer)>.*?<VTG>(?P<look>.*?)</VTG>.*?</(?P=tag)>"
    found = [match["look"] for match in re.finditer(inside, text, re.DOTALL)]
    if not found:
        return None
    try:
        look = ast.literal_eval(found[-1].strip())
        start, end, keyframe = (int(look.get(key, 0)) for key in KEYS)
    except (ValueError, SyntaxError, TypeError, AttributeError, OverflowError):
        return None
    limits = (num_frames, num_frames, num_frames - 1)
    numbers = zip((start, end, keyframe), limits, strict=True)
    start, end, keyframe = (sorted((0, number, limit))[1] for number, limit in numbers)
    return start, end, keyframe


def restated_span(text: str, visible: list[bool]) -> float:
    look = restated_look(text, len(visible))
    if look is None or look[0] >= look[1]:
        return -0.5
    if not any(visible):
        return 0.5
    shown = torch.tensor(sum(visible[look[0] : look[1]]), dtype=torch.float32)
    length = torch.tensor(look[1] - look[0], dtype=torch.float32)
    precision: float = (shown / (length + 1e-6)).item()
    return -0.5 if precision < 0.5 else 0.5 * precision


def restated_keyframe(text: str, visible: list[bool]) -> float:
    look = restated_look(text, len(visible))
    return 1.0 if look is not None and visible[look[2]] else -1.0


def restated_form(texts: list[str]) -> float:
    return 1.0 if all(restated_turn_form(text) for text in texts) else -1.0


def restated_turn_form(text: str) -> bool:
    whole = r"<think>.*?</think>\s*<(?P<tag>select|answer)>(?P<body>.*?)</(?P=tag)>"
    turn = re.search(whole, text, re.DOTALL)
    if turn is None:
        return False
    look = re.search("<VTG>(.*?)</VTG>", turn["body"], re.DOTALL)
    mask = re.search("<RefSeg>(.*?)</RefSeg>", turn["body"], re.DOTALL)
    if look is None or mask is None or "[SEG]" not in mask[1]:
        return False
    try:
        entries = json.loads(look[1])
    except ValueError:
        return False
    return isinstance(entries, dict) and set(KEYS) <= set(entries)


def restated_steps(texts: list[str]) -> float:
    shares = []
    for text in texts:
        thought = re.search("<think>(.*?)</think>", text, re.DOTALL | re.IGNORECASE)
        named = thought[1].lower() if thought else ""
        shares.append(sum(step in named for step in ("step 1", "step 2", "step 3", "action")) / 4)
    return sum(shares) / len(shares)


def restated(texts: list[str], visible: list[bool]) -> dict[str, float]:
    return {
        "format": restated_form(texts),
        "steps": restated_steps(texts),
        "span": restated_span(texts[-1], visible),
        "keyframe": restated_keyframe(texts[-1], visible),
    }


def test_text_rewards_are_those_of_the_release() -> None:
    rng = random.Random(0)
    earned = set()
    for _ in range(VIDEOS):
        share = rng.choice([0, 0.3, 0.5, 1])
        visible = [rng.random() < share for _ in range(rng.choice(LENGTHS))]
        texts_GT = []
        for _ in range(EPISODES):
            texts_GT.append([written_turn(rng) for _ in range(rng.randint(1, 3))])
        terms = text_terms(texts_GT, torch.tensor(visible), "as_released")
        for number, texts in enumerate(texts_GT):
            with warnings.catch_warnings():
                # Python warns of odd literals.
                warnings.simplefilter("ignore")
                expected = restated(texts, visible)
            found = {name: terms[name][number].item() for name in expected}
            assert found == expected, (texts, visible)
            earned.add((expected["format"], expected["span"] > 0, expected["keyframe"]))
    # The episodes reach every outcome.
    assert len(earned) == 8


def test_half_of_a_short_span_just_misses() -> None:
    """The release divides in float32, by a divisor that is a millionth too large."""
    text = '<answer><VTG>{"start": 0, "end": 2}</VTG></answer>'
    half = text_terms([[text]], torch.tensor([True, False]), "as_released")
    assert half["span"].item() == -0.5

    longer = text.replace("2", "32")
    visible_F = torch.arange(32) < 16
    assert text_terms([[longer]], visible_F, "as_released")["span"].item() == 0.25


def test_a_span_outside_of_its_tags_earns_nothing() -> None:
    look = '<VTG>{"start": 0, "end": 2, "keyframe": 0}</VTG>'
    for text in (look, f"<answer>{look}", f"{look}<answer></answer>"):
        terms = text_terms([[text]], torch.tensor([True, True]), "as_released")
        assert terms["span"].item() == -0.5
        assert terms["keyframe"].item() == -1
