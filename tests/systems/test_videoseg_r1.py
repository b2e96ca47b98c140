"""VideoSeg-R1 played by a scripted policy, scored by hand-made ground truth and by VisionReasoner's definition.

RAYVOS_FUZZ=100000 runs the fuzz tests at full size.
"""

import asyncio
import json
import math
import os
import re
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

import systems
from configs.load import load
from core.masks import decode, encode
from core.types import End, Reward, Sample, Target, Turn, Video, View
from rewards.negative_points import taxicab_distance
from systems.videoseg_r1 import VideoSegR1, difficulty

FUZZ = int(os.environ.get("RAYVOS_FUZZ", "400"))
TINY = {
    "key_frames": 3, "reference_frames": 2, "frame_height": 56, "frame_width": 84, "target_height": 112,
    "target_width": 168, "negative_limit": 20.0, "prompt": "short", "sampler": "first",
}  # fmt: skip
LEFT, RIGHT = (10, 10, 20, 20), (40, 10, 50, 30)  # x0, y0, x1, y1 (outside) in a video of 40 x 60; views scale by 2.8
# Their true boxes in the view: pixels 10..19 become 28..53, 40..49 become 112..137, 10..29 become 28..81.
PERFECT = [
    {"bbox_2d": [28, 28, 53, 53], "point_2d": [40, 40], "neg_point_2d": [60, 40]},
    {"bbox_2d": [112, 28, 137, 81], "point_2d": [125, 54], "neg_point_2d": [125, 95]},
]


def rectangle(x0: int, y0: int, x1: int, y1: int, height: int = 40, width: int = 60):
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[y0:y1, x0:x1] = True
    return encode(mask_HW)


def sample(num_frames: int = 8, boxes=(LEFT, RIGHT), seen=None, **changes) -> Sample:
    """Rectangles that stand still, visible in the frames `seen` (all)."""
    seen = range(num_frames) if seen is None else seen
    targets = tuple(
        Target(str(i), tuple(rectangle(*b) if f in seen else None for f in range(num_frames)))
        for i, b in enumerate(boxes)
    )
    video = Video("v", "videos/v", tuple(f"{i:05d}" for i in range(num_frames)), 40, 60)
    return replace(Sample("v/0", video, "the dogs", targets), **changes)


class Script:
    """Says the given text and remembers what it was asked. A text that ends in "..." was cut off. Counts words."""

    version = 0

    def __init__(self, text: str, aside: str = "") -> None:
        self.text, self.answer, self.asides = text, aside, 0
        self.asked, self.budgets = [], []

    async def __call__(self, content, *, max_tokens, trainable=True) -> Turn:
        self.asked.append(list(content))
        self.budgets.append(max_tokens)
        return Turn((1,), (2,), (-0.5,), self.text, (), not self.text.endswith("..."), version=0)

    async def aside(self, content, *, max_tokens, temperature, top_p) -> Turn:
        self.asides += 1
        return Turn((9,), (9,), (-0.5,), self.answer, (), True, version=0, trainable=False)

    def count(self, text: str) -> int:
        return len(text.split())


def say(rows, thought: str = "because") -> str:
    return f"<think>{thought}</think><answer>{json.dumps(rows)}</answer>"


def play(text: str, of: Sample | None = None, script: Script | None = None, **options):
    script, system = script or Script(text), VideoSegR1.make(TINY | options)
    return asyncio.run(system.play(of or sample(), script)), script, system


def score(text: str, of: Sample | None = None, **options) -> Reward:
    episode, _, system = play(text, of, **options)
    (reward,) = system.score(of or sample(), [episode])
    return reward


def parts(text: str, of: Sample | None = None, **options) -> tuple[float, ...]:
    return tuple(score(text, of, **options).parts.values())


# --- playing


def test_one_round():
    hinted = replace(sample(), hints={"target_frame": 4, "key_segment": [2, 6]})
    episode, script, _ = play(say(PERFECT), hinted)
    low = {f: View(f, 56, 84) for f in range(8)}
    assert script.asked == [["2", low[2], "5", low[5], "6", low[6], "4", View(4, 112, 168), " Find the dogs."]]
    assert script.budgets == [2000] and episode.end is End.DONE and len(episode.turns) == 1
    assert json.loads(json.dumps(episode.answer.facts, allow_nan=False))["frame"] == 4
    left, right = episode.answer.prompts
    assert left.frame == right.frame == 4 and left.labels == right.labels == (1, 0)
    assert left.box == pytest.approx(LEFT, abs=0.5) and right.box == pytest.approx(RIGHT, abs=0.5)
    assert left.points[0] == pytest.approx((40 / 2.8, 40 / 2.8)) and left.points[1] == pytest.approx(
        (60 / 2.8, 40 / 2.8)
    )


def test_an_image_is_a_video_of_one_frame():
    episode, script, _ = play(say(PERFECT), sample(1), sampler="full")
    assert script.asked == [["0", View(0, 112, 168), " Find the dogs."]]
    assert len(episode.answer.prompts) == 2 and score(say(PERFECT), sample(1)).parts["accuracy"] == 3


def test_questions_on_the_side_are_not_trained_and_asked_once():
    script = Script(say(PERFECT, "it barks"), '{"start": 4, "end": 5} 50%')
    system = VideoSegR1.make(TINY | {"sampler": "full", "sampler_samples": 2})

    async def group():
        return await asyncio.gather(*(system.play(sample(), script) for _ in range(3)))

    episodes = asyncio.run(group())
    assert [len(e.turns) for e in episodes] == [5, 1, 1] and script.asides == 4
    assert [t.trainable for t in episodes[0].turns] == [False] * 4 + [True]
    assert [e.answer.facts["frame"] for e in episodes] == [5, 5, 5]
    assert episodes[0].answer.facts["segment"] == [4, 6]
    assert episodes[0].answer.facts["reasoning_tokens"] == 2
    assert [r.parts["accuracy"] for r in system.score(sample(), episodes)] == [3, 3, 3]


def test_a_hint_needs_no_sampler():
    hinted = replace(sample(), hints={"target_frame": 4, "key_segment": [2, 6]})
    episode, script, _ = play(say(PERFECT), hinted, sampler="full")
    assert script.asides == 0 and (episode.answer.facts["frame"], episode.answer.facts["segment"]) == (4, [2, 6])


def test_full_prompts_say_what_is_needed():
    episode, script, system = play(say(PERFECT), prompt="full")
    (content,) = script.asked
    for words in ('"the dogs"', "168 x 112", "<think>", "bbox_2d", "neg_point_2d", "empty"):
        assert words in content[-1]
    assert "The target frame, frame 0:" in content and "The part of the video that matters:" in content
    example = content[-1][content[-1].rindex("<think>") :]
    _, _, system = play(example)
    assert score(example).parts["answer_format"] == 3
    assert "<think>" not in play(say(PERFECT), prompt="full", think=False)[1].asked[0][-1]
    for answer, keys in (("box", ["bbox_2d"]), ("point", ["point_2d"]), ("box_negative", ["bbox_2d", "neg_point_2d"])):
        task = play(say(PERFECT), prompt="full", answer=answer)[1].asked[0][-1]
        assert [key for key in ("bbox_2d", "point_2d", "neg_point_2d") if f'"{key}"' in task] == keys


@pytest.mark.parametrize(
    "text, end, prompts",
    [
        (say([]), End.DONE, 0),  # "there is none"
        (say(PERFECT).replace('"', "'"), End.DONE, 2),
        ("<think>hm</think><answer>the dogs</answer>", End.UNREADABLE, 0),
        ("no tags", End.UNREADABLE, 0),
        (say(PERFECT) + "...", End.TRUNCATED, 0),
        (say([{"bbox_2d": [50, 50, 20, 20]}]), End.DONE, 0),  # readable, of no use to a segmenter
        (say([{"bbox_2d": [50, 50, 20, 20], "point_2d": [30, 30]}]), End.DONE, 1),
        (say([{"bbox_2d": [500, 50, 520, 70]}]), End.DONE, 0),  # outside
        (say([{"point_2d": [500, 30]}]), End.DONE, 0),
    ],
)
def test_how_episodes_end(text, end, prompts):
    episode, *_ = play(text)
    assert episode.end is end and len(episode.answer.prompts) == prompts


def test_prompts_of_a_segmenter_stay_inside_the_video():
    row = {"bbox_2d": [-20, 90, 400, 300], "point_2d": [100, 100], "neg_points_2d": [[-1, 5], [5, 5], [168, 5]]}
    (prompt,) = play(say([row]))[0].answer.prompts
    assert prompt.box == pytest.approx((0, 90 / 2.8, 60, 40)) and prompt.labels == (1, 0)


# --- what training shows


def test_training_shows_a_large_target_and_no_truth():
    masks = tuple(rectangle(0, 0, 4 + f, 4 + f) if f % 2 else None for f in range(20))
    grows = replace(sample(20), targets=(Target("a", masks),), notes={"thought": "t"})
    frames = set()
    for seed in range(60):
        shown = VideoSegR1.make(TINY).shown(grows, np.random.default_rng(seed))
        frame, (start, stop) = shown.hints["target_frame"], shown.hints["key_segment"]
        assert shown.targets == () and not shown.notes and set(shown.hints) == {"target_frame", "key_segment"}
        assert 0 <= start <= frame < stop <= 20 and 2 <= stop - start <= 10
        frames.add(frame)
    assert frames == {11, 13, 15, 17, 19}
    any_visible = VideoSegR1.make(TINY | {"training_frame": "visible"})
    assert {any_visible.shown(grows, np.random.default_rng(s)).hints["target_frame"] for s in range(200)} == set(
        range(1, 20, 2)
    )
    assert VideoSegR1.make(TINY | {"training_frame": "sampler"}).shown(grows, np.random.default_rng(0)).hints == {}


def test_training_without_a_target_takes_any_frame():
    shown = [VideoSegR1.make(TINY).shown(sample(boxes=()), np.random.default_rng(s)) for s in range(80)]
    assert {s.hints["target_frame"] for s in shown} == set(range(8))
    unseen = sample(seen=())
    shown = [VideoSegR1.make(TINY).shown(unseen, np.random.default_rng(s)) for s in range(80)]
    assert {s.hints["target_frame"] for s in shown} == set(range(8))
    with pytest.raises(ValueError, match="'v/0': its targets are in none of the 8 frames"):
        VideoSegR1.make(TINY).demonstrate(unseen, np.random.default_rng(0))


# --- scoring by hand


LEFT_ONLY, WRONG = [PERFECT[0]], [{"bbox_2d": [0, 80, 20, 100], "point_2d": [10, 90], "neg_point_2d": [0, 0]}]


@pytest.mark.parametrize(
    "text, expected",
    [
        (say(PERFECT), (1, 3, 3, 1, 1, 1)),
        (say(PERFECT[::-1]), (1, 3, 3, 1, 1, 1)),
        (say(LEFT_ONLY), (1, 3, 1.5, 1, 1, 1)),
        (say(PERFECT + WRONG), (1, 3, 2, 2 / 3, 1, 1)),
        (say([{k: v for k, v in row.items() if k != "neg_point_2d"} for row in PERFECT]), (1, 2, 3, 0, 1, 1)),
        (say([PERFECT[0], {"bbox_2d": PERFECT[1]["bbox_2d"]}]), (1, 2, 0, 1, 1, 1)),  # a key is missing
        (say(PERFECT).replace('"', "'"), (1, 0, 0, 0, 1, 1)),  # not strict JSON
        (say([]), (1, 0, 0, 0, 1, 1)),  # there are two
        ("x " + say(PERFECT), (0, 3, 3, 1, 1, 1)),
        (say(PERFECT, "so. a. a. a. b"), (1, 3, 3, 1, 0, 1)),
        (say(PERFECT) + "...", (0, 0, 0, 0, 1, 1)),  # cut off
        ("a. a. a...", (0, 0, 0, 0, 0, 1)),
        ("", (0, 0, 0, 0, 1, 1)),
    ],
)
def test_parts_by_hand(text, expected):
    reward = score(text)
    assert tuple(reward.parts.values()) == pytest.approx(expected)
    assert reward.total == pytest.approx(sum(expected[:5]) * expected[5]) and reward.per_turn == ()


def test_no_target():
    none = sample(boxes=())
    assert parts(say([]), none) == (1, 3, 3, 0, 1, 1)
    assert parts(say(WRONG), none) == (1, 3, 0, 0, 1, 1)
    assert parts("<think>t</think><answer>none</answer>", none) == (1, 0, 0, 0, 1, 1)
    assert parts(say([]), none, answer="box") == (1, 1, 2, 0, 1, 1)
    assert score(say([]), none).total > score(say(WRONG), none).total


def test_a_target_frame_without_the_target_gives_no_accuracy():
    late = sample(seen=(5, 6))
    assert parts(say(PERFECT), late) == (1, 3, 0, 0, 1, 1) and parts(say([]), late) == (1, 0, 0, 0, 1, 1)
    shown = replace(late, hints={"target_frame": 5, "key_segment": [4, 7]})
    episode, _, system = play(say(PERFECT), shown)
    assert system.score(late, [episode])[0].parts["accuracy"] == 3


@pytest.mark.parametrize(
    "answer, form, accuracy, negative",
    [("box", 1, 2, 0), ("point", 1, 1, 0), ("box_point", 2, 3, 0), ("box_negative", 2, 2, 1), ("all", 3, 3, 1)],
)
def test_ablation_of_answers(answer, form, accuracy, negative):
    assert parts(say(PERFECT), answer=answer)[1:4] == (form, accuracy, negative)


def drawn(of: Sample, *groups_of_boxes) -> list[list[np.ndarray | None]]:
    """For each episode masks that are these boxes."""
    hw = of.video.height, of.video.width
    return [[None if b is None else decode(rectangle(*b, *hw)) for b in boxes] for boxes in groups_of_boxes]


def test_the_iou_may_be_that_of_masks():
    system = VideoSegR1.make(TINY | {"iou_source": "mask"})
    useless = {"bbox_2d": [50, 50, 20, 20], "point_2d": [500, 0]}  # nothing that a segmenter could be asked
    group = [play(say(rows))[0] for rows in (PERFECT, PERFECT, [useless, *PERFECT], PERFECT[::-1])]
    assert [len(e.answer.prompts) for e in group] == [2, 2, 2, 2]
    off = (0, 0, 5, 5)
    right = drawn(sample(), (LEFT, RIGHT), (LEFT, RIGHT), (LEFT, RIGHT), (RIGHT, LEFT))
    assert [r.parts["accuracy"] for r in system.score(sample(), group, right)] == [3, 3, 2, 3]
    wrong = drawn(sample(), (LEFT, off), (LEFT, off), (LEFT, off), (off, LEFT))
    assert [r.parts["accuracy"] for r in system.score(sample(), group, wrong)] == [2.5, 2.5, 5 / 3, 2.5]
    none = drawn(sample(), *[(None, None)] * 4)
    assert [r.parts["accuracy"] for r in system.score(sample(), group, none)] == [2, 2, 4 / 3, 2]
    loose = play(say([{"bbox_2d": [0, 0, 60, 60], "point_2d": [40, 40]}]), sample(boxes=(LEFT,)))[0]
    by_box = VideoSegR1.make(TINY).score(sample(boxes=(LEFT,)), [loose])[0].parts["accuracy"]
    by_mask = system.score(sample(boxes=(LEFT,)), [loose], drawn(sample(), (LEFT,)))[0].parts["accuracy"]
    assert (by_box, by_mask) == (1, 2) and system.masks_by == "segmenter" and VideoSegR1.make(TINY).masks_by == ""
    with pytest.raises(AssertionError, match="computed from masks"):
        system.score(sample(), group)


def test_length_and_difficulty():
    text = say(PERFECT, " ".join(f"w{i}" for i in range(100)))
    assert score(text).parts["length"] == pytest.approx(1 - 0.36)  # 100 words, 64 allowed
    easy = sample(notes={"difficulty": 2.0})
    assert score(text, easy).total == pytest.approx(9 * (1 - 0.52))
    assert score(text, sample(notes={"difficulty": 9})).parts["length"] == pytest.approx(1 - 0.04)
    assert (
        score(text, easy, length_penalty="none").parts["length"] == 1 == score(text, easy, think=False).parts["length"]
    )
    long = say(PERFECT, " ".join(f"w{i}" for i in range(300)))
    assert score(long).total == 0 > score(long, length_penalty="paper").total
    with pytest.raises(ValueError, match="'v/0': difficulty = 'hard': expected a number from 1 to 10"):
        difficulty(sample(notes={"difficulty": "hard"}))


def test_without_a_chain_of_thought():
    text = f"<answer>{json.dumps(PERFECT)}</answer>"
    assert parts(text, think=False) == parts(say(PERFECT), think=False) == (0, 3, 3, 1, 1, 1)


def test_a_group_is_scored_in_order_over_different_frames():
    system = VideoSegR1.make(TINY)
    late = sample(seen=(5, 6))
    hinted = replace(late, hints={"target_frame": 5, "key_segment": [4, 7]})
    group = [
        play(say(PERFECT), late)[0],
        play(say(PERFECT), hinted)[0],
        play("", late)[0],
        play(say(LEFT_ONLY), hinted)[0],
    ]
    assert [r.parts["accuracy"] for r in system.score(late, group)] == [0, 3, 0, 1.5]
    with pytest.raises(AssertionError):
        system.score(late, [replace(group[0], end=End.FAILED)])


# --- VisionReasoner's definition, written out one pair at a time

VISION_REASONER = {"answer": "box_point", "length_penalty": "none", "target_height": 840, "target_width": 840}


def reference(text: str, truth: list[dict[str, list[int]]]) -> float:
    """Format (0 to 3), accuracy (0 to 3) and non-repeat (0 or 1) of an answer about an image of 840 x 840."""
    total = float(bool(re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)))
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    try:
        rows = json.loads(found.group(1).strip()) if found else None
    except ValueError:
        rows = None
    if isinstance(rows, list) and rows:
        for row in rows:
            if isinstance(row, dict):
                total += (type(row.get("bbox_2d")) is list and len(row["bbox_2d"]) == 4) / len(rows)
                total += (type(row.get("point_2d")) is list and len(row["point_2d"]) == 2) / len(rows)
        total += accuracy(rows, truth)
    seen, repeats = [], 0
    for sentence in (part.strip() for part in text.split(".")):
        if sentence:
            repeats += sentence in seen
            seen.append(sentence)
    return total + (repeats < 2)


def accuracy(rows, truth) -> float:
    whole = lambda v, n: type(v) is list and len(v) == n and all(type(x) in (int, float) for x in v)  # noqa: E731
    if not all(isinstance(r, dict) and whole(r.get("bbox_2d"), 4) and whole(r.get("point_2d"), 2) for r in rows):
        return 0.0
    rows, truth = rows[:120], truth[:120]
    pairs = [[pair(r["bbox_2d"], r["point_2d"], t["bbox_2d"], t["point_2d"]) for t in truth] for r in rows]
    if len(pairs) > len(pairs[0]):
        pairs = [list(column) for column in zip(*pairs, strict=True)]
    few, many = len(pairs), len(pairs[0])
    return max(sum(pairs[i][j] for i, j in enumerate(p)) for p in permutations(range(many), few)) / many


def pair(box, point, true_box, true_point) -> int:
    wide = lambda b: (b[2] - b[0] + 1) * (b[3] - b[1] + 1)  # noqa: E731
    across = max(0, min(box[2], true_box[2]) - max(box[0], true_box[0]) + 1)
    down = max(0, min(box[3], true_box[3]) - max(box[1], true_box[1]) + 1)
    shared = across * down
    union = wide(box) + wide(true_box) - shared
    hit = union != 0 and shared / union > 0.5
    close = sum(abs(a - b) for a, b in zip(box, true_box, strict=True)) / 4 < 10
    inside = box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
    return hit + close + (inside and math.dist(point, true_point) < 30)


HOSTILE = (
    "", "[", "]", "{", "}", "\\", '"', "9" * 500, "-9e307", "1e999", "NaN", "Infinity", "\ud800", "null", "true",
    "[" * 50, "<answer>", "</think>", '"neg_points_2d":', "[[1,2],[3,4]]", "0", "\0",
)  # fmt: skip


class Fuzz:
    """Answers about a truth: near misses, wrong counts, broken rows, repeated sentences, missing tags."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def answer(self, truth: list[dict[str, list[int]]]) -> str:
        rows = [self.row(truth[i]) for i in self.rng.permutation(len(truth))]
        rows = rows[: int(self.rng.integers(len(rows) + 1))] if self.rng.random() < 0.3 else rows
        rows += [self.row(self.pick(*truth)) for _ in range(int(self.rng.integers(3)))]
        thought = ". ".join(self.pick("a dog", "a cat", "left", "right", " left ") for _ in range(self.rng.integers(5)))
        text = f"<think>{thought}</think>{self.pick('', ' ', chr(10))}<answer>{json.dumps(rows)}</answer>"
        return self.damage(text) if self.rng.random() < 0.25 else text

    def row(self, true) -> object:
        spread = self.pick(0, 3, 10, 30, 200)
        step = self.pick(1, 1, 0.25)
        move = lambda values: [v + step * int(self.rng.integers(-spread, spread + 1)) for v in values]  # noqa: E731
        row = {"bbox_2d": move(true["bbox_2d"]), "point_2d": move(true["point_2d"])}
        if self.rng.random() < 0.15:
            odd = self.pick([], None, "x", [1, 2], [1, 2, 3, 4], [1, 2, "3", 4], [1, None], [4, 4, 1, 1], {"a": 1}, 3)
            row[self.pick("bbox_2d", "point_2d")] = odd
        if self.rng.random() < 0.05:
            row = self.pick({}, {"bbox_2d": [1, 2, 3, 4]}, {"point_2d": [1, 2], "label": "x"}, row | {"label": 1})
        return row

    def damage(self, text: str) -> str:
        start, stop = sorted(int(i) for i in self.rng.integers(0, len(text) + 1, size=2))
        return self.pick(
            text.replace('"', "'"),
            "so " + text,
            text + " ",
            text.replace("<think>", ""),
            text.replace("</answer>", ""),
            text[:start] + text[stop:],
            text + text,
            text.replace("<answer>", "<answer>```json\n").replace("</answer>", "```</answer>"),
        )

    def anything(self, text: str) -> str:
        """Text with pieces cut out, doubled or replaced by what breaks parsers."""
        for _ in range(int(self.rng.integers(1, 5))):
            start, stop = sorted(int(i) for i in self.rng.integers(0, len(text) + 1, size=2))
            stop = min(stop, start + 40)
            piece = self.pick(text[start:stop] * 2, *HOSTILE)
            text = text[:start] + piece + text[stop:]
        return text


def many(seed: int) -> tuple[Sample, list[dict[str, list[int]]]]:
    """A video of one frame with up to four rectangles, and the truth in a view of 840 x 840 (14 and 21 times)."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(int(rng.integers(1, 5))):
        x, y, w, h = rng.integers(0, 45), rng.integers(0, 25), 2 * rng.integers(1, 8) + 1, 2 * rng.integers(1, 8) + 1
        boxes.append((int(x), int(y), int(min(x + w, 60)), int(min(y + h, 40))))
    one = sample(1, boxes)
    truth = VideoSegR1.make(TINY | VISION_REASONER)._truth(one, 0)
    pairs = zip(truth.boxes_N4.astype(int).tolist(), truth.points_N2.astype(int).tolist(), strict=True)
    return one, [{"bbox_2d": b, "point_2d": p} for b, p in pairs]


def test_truth_is_scaled_as_in_vision_reasoners_data():
    truth = VideoSegR1.make(TINY | VISION_REASONER)._truth(sample(), 0)
    assert truth.boxes_N4.tolist() == [[140, 210, 266, 399], [560, 210, 686, 609]]
    x, y = truth.points_N2[0]
    assert 10 * 14 <= x <= 19 * 14 and 10 * 21 <= y <= 19 * 21


def test_the_reward_is_vision_reasoners():
    earned = []
    for seed in range(max(FUZZ // 20, 1)):
        one, truth = many(seed)
        fuzz = Fuzz(seed)
        texts = [fuzz.answer(truth) for _ in range(20)]
        system = VideoSegR1.make(TINY | VISION_REASONER)
        group = [play(text, one, **VISION_REASONER)[0] for text in texts]
        rewards = [reward.total for reward in system.score(one, group)]
        expected = [reference(text, truth) for text in texts]
        assert rewards == pytest.approx(expected, abs=1e-9), texts
        earned += rewards
    assert len({round(r, 3) for r in earned}) > 20 and max(earned) == 7  # the fuzz reaches most of the scale


@pytest.mark.parametrize("iou_source", ["box", "mask"])
def test_no_completion_breaks_parser_or_reward(iou_source):
    one, truth = many(1)
    none, options = sample(1, boxes=()), {"length_penalty": "paper", "iou_source": iou_source, "answer": "all"}
    system, fuzz, asked = VideoSegR1.make(TINY | VISION_REASONER | options), Fuzz(1), 0
    for _ in range(max(FUZZ // 20, 1)):
        texts = [fuzz.anything(fuzz.answer([t | {"neg_point_2d": [5, 5]} for t in truth])) for _ in range(20)]
        group = [asyncio.run(system.play(one, Script(text))) for text in texts]
        for episode in group:
            json.dumps(episode.answer.facts, allow_nan=False)
            assert all(p.box or 1 in p.labels for p in episode.answer.prompts)
            asked += len(episode.answer.prompts)
        for of in (one, none):
            masks = drawn(of, *(e.answer.prompts and [LEFT] * len(e.answer.prompts) for e in group))
            for reward in system.score(of, group, masks if iou_source == "mask" else None):
                assert all(math.isfinite(v) for v in (reward.total, *reward.parts.values()))
                assert all(0 <= v <= 3 for name, v in reward.parts.items() if name != "length")
    assert asked > FUZZ // 40, "few answers reach the segmenter: proves little"


# --- demonstrating


@pytest.mark.parametrize("options", [{}, {"prompt": "full"}, {"think": False}, {"answer": "box"}, {"answer": "point"}])
@pytest.mark.parametrize(
    "of", [sample(), sample(1), sample(boxes=()), sample(seen=(6,))], ids="2 image none late".split()
)
def test_a_demonstration_earns_what_can_be_earned(of, options):
    system = VideoSegR1.make(TINY | options)
    for seed in range(3):
        ((content, text),) = system.demonstrate(of, np.random.default_rng(seed))
        shown = system.shown(of, np.random.default_rng(seed))
        script = Script(text)
        episode = asyncio.run(system.play(shown, script))
        assert script.asked == [content] and len(episode.answer.prompts) == len(of.targets)
        (reward,) = system.score(of, [episode])
        most = system.options.lengths
        assert reward.parts["answer_format"] == len(most) and reward.parts["think_format"] == system.options.think
        assert reward.parts["accuracy"] == 2 * ("bbox_2d" in most) + ("point_2d" in most)
        assert reward.parts["negative"] == ("neg_point_2d" in most and bool(of.targets))


def test_a_demonstration_uses_the_notes():
    noted = sample(notes={"thought": "they bark", "names": ["red dog", "blue dog"]})
    assert "<think>they bark</think>" in VideoSegR1.make(TINY).demonstrate(noted, np.random.default_rng(0))[0][1]
    named = replace(noted, notes={"names": ["red dog", "blue dog"]})
    assert "red dog and blue dog" in VideoSegR1.make(TINY).demonstrate(named, np.random.default_rng(0))[0][1]


# --- options


@pytest.mark.parametrize(
    "options, message",
    [
        ({"key_frame": 8}, "key_frame is unknown; did you mean 'key_frames'"),
        ({"key_frames": 0}, "key_frames = 0: must be at least 1"),
        ({"sampler_samples": 0}, "at least 1"),
        ({"target_width": 100}, "multiple of 28"),
        ({"answer": "boxes"}, "expected one of 'point', 'box'"),
        ({"iou_source": "mask", "answer": "point"}, "answer = 'point' has no IoU; choose iou_source = 'box'"),
        ({"sampler": "best"}, "'full', 'random', 'direct', 'first'"),
        ({"sampler_delta": 1.5}, r"\(0, 1\]"),
        ({"length_beta": -1.0}, "must not be negative"),
        ({"negative_limit": 280.0}, "below height . width"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSegR1.make(TINY | options)


def test_system_by_name():
    system = systems.make("videoseg_r1", {"reference_frames": 0, "sampler_samples": 4})
    assert system.name == "videoseg_r1" and system.options.plan.samples == 4 and system.options.plan.mode == "full"


@pytest.mark.parametrize("preset", ["videoseg_r1_7b", "videoseg_r1_3b"])
def test_presets_fit_the_system(preset):
    cfg = load([preset])
    options = systems.make(cfg.system.name, cfg.system.options).options
    assert (options.target_hw, options.negative_limit, options.answer) == ((840, 840), 40, "all")
    assert (cfg.rollout.prompts_per_step, cfg.rollout.group_size, cfg.learner.lr) == (16, 8, 1e-6)
    assert cfg.policy.path.endswith(f"{preset[-2:].upper()}-Instruct")


def test_scores_do_not_depend_on_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        assert score(say(PERFECT)).total == 9 and taxicab_distance(torch.zeros(2, 2) > 0).dtype == torch.int32
    finally:
        torch.set_default_dtype(torch.float32)
