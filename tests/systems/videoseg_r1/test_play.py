"""VideoSeg-R1: what is shown and asked, and what an answer earns, by hand."""

import asyncio
import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

import systems
from configs.load import load
from core.types import End, Hints, Notes, Sample, Target, View
from rewards.negative_points import taxicab_distance
from systems.videoseg_r1 import VideoSegR1
from systems.videoseg_r1.score import difficulty_of
from tests.systems.r1_script import (
    LEFT,
    PERFECT,
    RIGHT,
    TINY,
    drawn,
    parts,
    play,
    sample,
    say,
    score,
)
from tests.systems.scripted import ScriptedAsk, rectangle

# --- playing


def test_one_round():
    hinted = replace(sample(), hints=Hints(4, (2, 6)))
    episode, script, _ = play(say(PERFECT), hinted)
    low = {f: View(f, 56, 84) for f in range(8)}
    assert script.contents == [
        ["2", low[2], "5", low[5], "6", low[6], "4", View(4, 112, 168), " Find the dogs."]
    ]
    assert script.budgets == [2000]
    assert episode.end is End.DONE
    assert len(episode.turns) == 1
    assert json.loads(json.dumps(episode.answer.to_json(), allow_nan=False))["frame"] == 4
    left, right = episode.answer.prompts
    assert left.frame == right.frame == 4
    assert left.labels == right.labels == (1, 0)
    assert left.box == pytest.approx(LEFT, abs=0.5)
    assert right.box == pytest.approx(RIGHT, abs=0.5)
    assert left.points[0] == pytest.approx((40 / 2.8, 40 / 2.8))
    assert left.points[1] == pytest.approx((60 / 2.8, 40 / 2.8))


def test_an_image_is_a_video_of_one_frame():
    episode, script, _ = play(say(PERFECT), sample(1), sampler="full")
    assert script.contents == [["0", View(0, 112, 168), " Find the dogs."]]
    assert len(episode.answer.prompts) == 2
    assert score(say(PERFECT), sample(1)).parts["accuracy"] == 3


def test_questions_on_the_side_are_not_trained_and_asked_once():
    script = ScriptedAsk(say(PERFECT, "it barks"), auxiliary=['{"start": 4, "end": 5} 50%'])
    system = VideoSegR1.make(TINY | {"sampler": "full", "sampler_samples": 2})

    async def group():
        return await asyncio.gather(*(system.play(sample(), script) for _ in range(3)))

    episodes = asyncio.run(group())
    assert [len(e.turns) for e in episodes] == [5, 1, 1]
    assert len(script.auxiliary_contents) == 4
    assert [t.trainable for t in episodes[0].turns] == [False] * 4 + [True]
    assert [e.answer.keyframe for e in episodes] == [5, 5, 5]
    assert episodes[0].answer.facts["segment"] == [4, 6]
    assert episodes[0].answer.reasoning_tokens == 2
    assert [r.parts["accuracy"] for r in system.score(sample(), episodes)] == [3, 3, 3]


def test_a_hint_needs_no_sampler():
    hinted = replace(sample(), hints=Hints(4, (2, 6)))
    episode, script, _ = play(say(PERFECT), hinted, sampler="full")
    assert script.auxiliary_contents == []
    assert (episode.answer.keyframe, episode.answer.facts["segment"]) == (4, [2, 6])


def test_full_prompts_say_what_is_needed():
    _episode, script, _system = play(say(PERFECT), prompt="full")
    (content,) = script.contents
    for words in ('"the dogs"', "168 x 112", "<think>", "bbox_2d", "neg_point_2d", "empty"):
        assert words in content[-1]
    assert "The target frame, frame 0:" in content
    assert "The part of the video that matters:" in content
    example = content[-1][content[-1].rindex("<think>") :]
    _, _, _system = play(example)
    assert score(example).parts["answer_format"] == 3
    assert "<think>" not in play(say(PERFECT), prompt="full", think=False)[1].contents[0][-1]
    for answer, keys in (
        ("box", ["bbox_2d"]),
        ("point", ["point_2d"]),
        ("box_negative", ["bbox_2d", "neg_point_2d"]),
    ):
        task = play(say(PERFECT), prompt="full", answer=answer)[1].contents[0][-1]
        assert [
            key for key in ("bbox_2d", "point_2d", "neg_point_2d") if f'"{key}"' in task
        ] == keys


@pytest.mark.parametrize(
    ("text", "end", "prompts"),
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
    assert episode.end is end
    assert len(episode.answer.prompts) == prompts


def test_prompts_of_a_segmenter_stay_inside_the_video():
    row = {
        "bbox_2d": [-20, 90, 400, 300],
        "point_2d": [100, 100],
        "neg_points_2d": [[-1, 5], [5, 5], [168, 5]],
    }
    (prompt,) = play(say([row]))[0].answer.prompts
    assert prompt.box == pytest.approx((0, 90 / 2.8, 60, 40))
    assert prompt.labels == (1, 0)


# --- what training shows


def target_frame(system: VideoSegR1, of: Sample, seed: int) -> int | None:
    """Return the target frame that training shows."""
    hints = system.shown(of, np.random.default_rng(seed)).hints
    assert hints is not None
    return hints.target_frame


def test_training_shows_a_large_target_and_no_truth():
    masks = tuple(rectangle(0, 0, 4 + f, 4 + f) if f % 2 else None for f in range(20))
    grows = replace(sample(20), targets=(Target("a", masks),), notes=Notes(thought="t"))
    frames = set()
    for seed in range(60):
        shown = VideoSegR1.make(TINY).shown(grows, np.random.default_rng(seed))
        assert shown.hints is not None
        frame = shown.hints.target_frame
        segment = shown.hints.key_segment
        assert frame is not None
        assert segment is not None
        start, stop = segment
        assert shown.targets == ()
        assert shown.notes == Notes()
        assert 0 <= start <= frame < stop <= 20
        assert 2 <= stop - start <= 10
        frames.add(frame)
    assert frames == {11, 13, 15, 17, 19}
    any_visible = VideoSegR1.make(TINY | {"training_frame": "visible"})
    found = {target_frame(any_visible, grows, seed) for seed in range(200)}
    assert found == set(range(1, 20, 2))
    by_sampler = VideoSegR1.make(TINY | {"training_frame": "sampler"})
    assert by_sampler.shown(grows, np.random.default_rng(0)).hints is None


def test_training_without_a_target_takes_any_frame():
    system = VideoSegR1.make(TINY)
    unseen = sample(seen=())
    for nothing in (sample(boxes=()), unseen):
        found = {target_frame(system, nothing, seed) for seed in range(80)}
        assert found == set(range(8))
    with pytest.raises(ValueError, match="'v/0': its targets are in none of the 8 frames"):
        VideoSegR1.make(TINY).demonstrate(unseen, np.random.default_rng(0))


# --- scoring by hand


LEFT_ONLY = [PERFECT[0]]
WRONG = [{"bbox_2d": [0, 80, 20, 100], "point_2d": [10, 90], "neg_point_2d": [0, 0]}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (say(PERFECT), (1, 3, 3, 1, 1, 1)),
        (say(PERFECT[::-1]), (1, 3, 3, 1, 1, 1)),
        (say(LEFT_ONLY), (1, 3, 1.5, 1, 1, 1)),
        (say(PERFECT + WRONG), (1, 3, 2, 2 / 3, 1, 1)),
        (
            say([{k: v for k, v in row.items() if k != "neg_point_2d"} for row in PERFECT]),
            (1, 2, 3, 0, 1, 1),
        ),
        (
            say([PERFECT[0], {"bbox_2d": PERFECT[1]["bbox_2d"]}]),
            (1, 2, 0, 1, 1, 1),
        ),  # a key is missing
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
    assert reward.total == pytest.approx(sum(expected[:5]) * expected[5])
    assert reward.per_turn == ()


def test_no_target():
    none = sample(boxes=())
    assert parts(say([]), none) == (1, 3, 3, 0, 1, 1)
    assert parts(say(WRONG), none) == (1, 3, 0, 0, 1, 1)
    assert parts("<think>t</think><answer>none</answer>", none) == (1, 0, 0, 0, 1, 1)
    assert parts(say([]), none, answer="box") == (1, 1, 2, 0, 1, 1)
    assert score(say([]), none).total > score(say(WRONG), none).total


def test_a_target_frame_without_the_target_gives_no_accuracy():
    late = sample(seen=(5, 6))
    assert parts(say(PERFECT), late) == (1, 3, 0, 0, 1, 1)
    assert parts(say([]), late) == (1, 0, 0, 0, 1, 1)
    shown = replace(late, hints=Hints(5, (4, 7)))
    episode, _, system = play(say(PERFECT), shown)
    assert system.score(late, [episode])[0].parts["accuracy"] == 3


@pytest.mark.parametrize(
    ("answer", "form", "accuracy", "negative"),
    [
        ("box", 1, 2, 0),
        ("point", 1, 1, 0),
        ("box_point", 2, 3, 0),
        ("box_negative", 2, 2, 1),
        ("all", 3, 3, 1),
    ],
)
def test_ablation_of_answers(answer, form, accuracy, negative):
    assert parts(say(PERFECT), answer=answer)[1:4] == (form, accuracy, negative)


def test_the_iou_may_be_that_of_masks():
    system = VideoSegR1.make(TINY | {"iou_source": "mask"})
    useless = {
        "bbox_2d": [50, 50, 20, 20],
        "point_2d": [500, 0],
    }  # nothing that a segmenter could be asked
    group = [play(say(rows))[0] for rows in (PERFECT, PERFECT, [useless, *PERFECT], PERFECT[::-1])]
    assert [len(e.answer.prompts) for e in group] == [2, 2, 2, 2]
    off = (0, 0, 5, 5)
    right = drawn(sample(), (LEFT, RIGHT), (LEFT, RIGHT), (LEFT, RIGHT), (RIGHT, LEFT))
    assert [r.parts["accuracy"] for r in system.score(sample(), group, right)] == [3, 3, 2, 3]
    wrong = drawn(sample(), (LEFT, off), (LEFT, off), (LEFT, off), (off, LEFT))
    assert [r.parts["accuracy"] for r in system.score(sample(), group, wrong)] == [
        2.5,
        2.5,
        5 / 3,
        2.5,
    ]
    none = drawn(sample(), *[(None, None)] * 4)
    assert [r.parts["accuracy"] for r in system.score(sample(), group, none)] == [2, 2, 4 / 3, 2]
    loose = play(say([{"bbox_2d": [0, 0, 60, 60], "point_2d": [40, 40]}]), sample(boxes=(LEFT,)))[0]
    by_box = VideoSegR1.make(TINY).score(sample(boxes=(LEFT,)), [loose])[0].parts["accuracy"]
    by_mask = system.score(sample(boxes=(LEFT,)), [loose], drawn(sample(), (LEFT,)))[0].parts[
        "accuracy"
    ]
    assert (by_box, by_mask) == (1, 2)
    assert system.masks_by == "segmenter"
    assert VideoSegR1.make(TINY).masks_by == ""
    with pytest.raises(AssertionError, match="computed from masks"):
        system.score(sample(), group)


def test_length_and_difficulty():
    text = say(PERFECT, " ".join(f"w{i}" for i in range(100)))
    assert score(text).parts["length"] == pytest.approx(1 - 0.36)  # 100 words, 64 allowed
    easy = sample(notes=Notes(difficulty=2.0))
    assert score(text, easy).total == pytest.approx(9 * (1 - 0.52))
    assert score(text, sample(notes=Notes(difficulty=9))).parts["length"] == pytest.approx(1 - 0.04)
    assert (
        score(text, easy, length_penalty="none").parts["length"]
        == 1
        == score(text, easy, think=False).parts["length"]
    )
    long = say(PERFECT, " ".join(f"w{i}" for i in range(300)))
    assert score(long).total == 0 > score(long, length_penalty="paper").total
    with pytest.raises(
        ValueError, match="'v/0': difficulty = 'hard': expected a number from 1 to 10"
    ):
        difficulty_of(sample(notes=Notes(difficulty=cast(Any, "hard"))))


def test_without_a_chain_of_thought():
    text = f"<answer>{json.dumps(PERFECT)}</answer>"
    assert parts(text, think=False) == parts(say(PERFECT), think=False) == (0, 3, 3, 1, 1, 1)


def test_a_group_is_scored_in_order_over_different_frames():
    system = VideoSegR1.make(TINY)
    late = sample(seen=(5, 6))
    hinted = replace(late, hints=Hints(5, (4, 7)))
    group = [
        play(say(PERFECT), late)[0],
        play(say(PERFECT), hinted)[0],
        play("", late)[0],
        play(say(LEFT_ONLY), hinted)[0],
    ]
    assert [r.parts["accuracy"] for r in system.score(late, group)] == [0, 3, 0, 1.5]
    with pytest.raises(AssertionError):
        system.score(late, [replace(group[0], end=End.FAILED)])


# --- demonstrating


@pytest.mark.parametrize(
    "options", [{}, {"prompt": "full"}, {"think": False}, {"answer": "box"}, {"answer": "point"}]
)
@pytest.mark.parametrize(
    "of",
    [sample(), sample(1), sample(boxes=()), sample(seen=(6,))],
    ids=["2", "image", "none", "late"],
)
def test_a_demonstration_earns_what_can_be_earned(of, options):
    system = VideoSegR1.make(TINY | options)
    for seed in range(3):
        ((content, text),) = system.demonstrate(of, np.random.default_rng(seed))
        shown = system.shown(of, np.random.default_rng(seed))
        script = ScriptedAsk(text)
        episode = asyncio.run(system.play(shown, script))
        assert script.contents == [content]
        assert len(episode.answer.prompts) == len(of.targets)
        (reward,) = system.score(of, [episode])
        most = system.options.lengths
        assert reward.parts["answer_format"] == len(most)
        assert reward.parts["think_format"] == system.options.think
        assert reward.parts["accuracy"] == 2 * ("bbox_2d" in most) + ("point_2d" in most)
        assert reward.parts["negative"] == ("neg_point_2d" in most and bool(of.targets))


def test_a_demonstration_uses_the_notes():
    noted = sample(notes=Notes(thought="they bark", names=("red dog", "blue dog")))
    assert (
        "<think>they bark</think>"
        in VideoSegR1.make(TINY).demonstrate(noted, np.random.default_rng(0))[0][1]
    )
    named = replace(noted, notes=Notes(names=("red dog", "blue dog")))
    assert (
        "red dog and blue dog"
        in VideoSegR1.make(TINY).demonstrate(named, np.random.default_rng(0))[0][1]
    )


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_frame": 8}, "key_frame is unknown; did you mean 'key_frames'"),
        ({"key_frames": 0}, "key_frames=0: must be at least 1"),
        ({"sampler_samples": 0}, "at least 1"),
        ({"answer": "boxes"}, r"expected one of point \| box"),
        (
            {"iou_source": "mask", "answer": "point"},
            "answer = 'point' has no IoU; choose iou_source = 'box'",
        ),
        ({"sampler": "best"}, r"full \| random \| direct \| first"),
        ({"sampler_delta": 1.5}, "sampler_delta=1.5: must be above 0 and at most 1"),
        ({"length_beta": -1.0}, "length_beta=-1.0: must be at least 0"),
        ({"negative_limit": 280.0}, "below height . width"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSegR1.make(TINY | options)


def test_system_by_name():
    system = systems.make("videoseg_r1", {"reference_frames": 0, "sampler_samples": 4})
    assert isinstance(system, VideoSegR1)
    assert system.name == "videoseg_r1"
    assert system.options.plan.samples == 4
    assert system.options.plan.mode == "full"


@pytest.mark.parametrize("preset", ["videoseg_r1_7b", "videoseg_r1_3b"])
def test_presets_fit_the_system(preset):
    cfg = load([preset])
    options = VideoSegR1.make(cfg.system.options).options
    assert (options.target_hw, options.negative_limit, options.answer) == ((840, 840), 40, "all")
    assert (cfg.rollout.prompts_per_step, cfg.rollout.group_size, cfg.learner.lr) == (16, 8, 1e-6)
    assert cfg.policy.path.endswith(f"{preset[-2:].upper()}-Instruct")


def test_scores_do_not_depend_on_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        assert score(say(PERFECT)).total == 9
        assert taxicab_distance(torch.zeros(2, 2) > 0).dtype == torch.int32
    finally:
        torch.set_default_dtype(torch.float32)
