"""VideoSeg-R1: its dialogue, its rewards by hand, its demonstrations and options."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

import systems
from configs.load import load
from core.types import End, Episode, Hints, Notes, Reward, Sample, Target, View
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


def test_one_round() -> None:
    hinted = sample(hints=Hints(4, (2, 6)))
    episode, script, _ = play(say(PERFECT), hinted)
    context = ["2", View(2, 56, 84), "5", View(5, 56, 84), "6", View(6, 56, 84)]
    target = ["4", View(4, 112, 168)]
    assert script.contents == [[*context, *target, " Find the dogs."]]
    assert script.budgets == [2000]
    assert episode.end is End.DONE
    assert len(episode.turns) == 1
    logged = json.loads(json.dumps(episode.answer.to_json(), allow_nan=False))
    assert logged["frame"] == 4


def test_every_object_becomes_a_mask_prompt() -> None:
    hinted = sample(hints=Hints(4, (2, 6)))
    episode, _, _ = play(say(PERFECT), hinted)
    left, right = episode.answer.prompts
    assert left.frame == 4
    assert right.frame == 4
    assert left.labels == (1, 0)
    assert right.labels == (1, 0)
    assert left.box == pytest.approx(LEFT, abs=0.5)
    assert right.box == pytest.approx(RIGHT, abs=0.5)
    assert left.points[0] == pytest.approx((40 / 2.8, 40 / 2.8))
    assert left.points[1] == pytest.approx((60 / 2.8, 40 / 2.8))


def test_an_image_is_a_video_of_one_frame() -> None:
    episode, script, _ = play(say(PERFECT), sample(1), sampler="full")
    assert script.contents == [["0", View(0, 112, 168), " Find the dogs."]]
    assert len(episode.answer.prompts) == 2
    assert score(say(PERFECT), sample(1)).parts["accuracy"] == 3


def test_auxiliary_questions_are_asked_once_and_not_trained() -> None:
    script = ScriptedAsk(say(PERFECT, "it barks"), auxiliary=['{"start": 4, "end": 5} 50%'])
    system = VideoSegR1.make(TINY | {"sampler": "full", "sampler_samples": 2})

    async def play_group() -> list[Episode]:
        return await asyncio.gather(*[system.play(sample(), script) for _ in range(3)])

    episodes = asyncio.run(play_group())
    assert len(script.auxiliary_contents) == 4
    first = episodes[0]
    assert [turn.trainable for turn in first.turns] == [False] * 4 + [True]
    assert first.answer.facts["segment"] == [4, 6]
    assert first.answer.reasoning_tokens == 2
    assert [len(episode.turns) for episode in episodes] == [5, 1, 1]
    assert [episode.answer.keyframe for episode in episodes] == [5, 5, 5]
    assert accuracies(system.score(sample(), episodes)) == [3, 3, 3]


def test_a_hint_replaces_the_sampler() -> None:
    hinted = sample(hints=Hints(4, (2, 6)))
    episode, script, _ = play(say(PERFECT), hinted, sampler="full")
    assert script.auxiliary_contents == []
    assert episode.answer.keyframe == 4
    assert episode.answer.facts["segment"] == [2, 6]


def full_question(**options: Any) -> list[Any]:
    """The content of the question in its full form."""
    _, script, _ = play(say(PERFECT), prompt="full", **options)
    (content,) = script.contents
    return content


def test_the_full_question_says_all_that_is_needed() -> None:
    content = full_question()
    for words in ('"the dogs"', "168 x 112", "<think>", "bbox_2d", "neg_point_2d", "empty"):
        assert words in content[-1]
    assert "The target frame, frame 0:" in content
    assert "The part of the video that matters:" in content


def test_the_example_of_the_full_question_keeps_its_form() -> None:
    instruction = full_question()[-1]
    example = instruction[instruction.rindex("<think>") :]
    assert score(example).parts["answer_format"] == 3


def test_the_full_question_without_a_thought() -> None:
    assert "<think>" not in full_question(think=False)[-1]


@pytest.mark.parametrize(
    ("answer", "keys"),
    [
        ("box", {"bbox_2d"}),
        ("point", {"point_2d"}),
        ("box_negative", {"bbox_2d", "neg_point_2d"}),
    ],
)
def test_the_full_question_names_only_the_keys_of_the_answer(answer: str, keys: set[str]) -> None:
    instruction = full_question(answer=answer)[-1]
    for key in ("bbox_2d", "point_2d", "neg_point_2d"):
        assert (f'"{key}"' in instruction) == (key in keys)


@pytest.mark.parametrize(
    ("text", "end", "prompts"),
    [
        # An empty list says that no object fits the query.
        (say([]), End.DONE, 0),
        (say(PERFECT).replace('"', "'"), End.DONE, 2),
        ("<think>hm</think><answer>the dogs</answer>", End.UNREADABLE, 0),
        ("no tags", End.UNREADABLE, 0),
        (say(PERFECT) + "...", End.TRUNCATED, 0),
        # A reversed box is readable but no mask prompt; its point is one.
        (say([{"bbox_2d": [50, 50, 20, 20]}]), End.DONE, 0),
        (say([{"bbox_2d": [50, 50, 20, 20], "point_2d": [30, 30]}]), End.DONE, 1),
        # Outside the video.
        (say([{"bbox_2d": [500, 50, 520, 70]}]), End.DONE, 0),
        (say([{"point_2d": [500, 30]}]), End.DONE, 0),
    ],
)
def test_how_an_episode_ends(text: str, end: End, prompts: int) -> None:
    episode, *_ = play(text)
    assert episode.end is end
    assert len(episode.answer.prompts) == prompts


def test_mask_prompts_stay_inside_the_video() -> None:
    row = {
        "bbox_2d": [-20, 90, 400, 300],
        "point_2d": [100, 100],
        "neg_points_2d": [[-1, 5], [5, 5], [168, 5]],
    }
    episode, _, _ = play(say([row]))
    (prompt,) = episode.answer.prompts
    assert prompt.box == pytest.approx((0, 90 / 2.8, 60, 40))
    assert prompt.labels == (1, 0)


# --- samples as training shows them


def growing() -> Sample:
    """20 frames; a square that grows, visible in the odd ones."""
    masks_F = []
    for frame in range(20):
        side = 4 + frame
        masks_F.append(rectangle(0, 0, side, side) if frame % 2 else None)
    return sample(20, targets=(Target("a", tuple(masks_F)),), notes=Notes(thought="t"))


def target_frames(system: VideoSegR1, of: Sample, seeds: int) -> set[int | None]:
    """Return the target frames that training shows with these many seeds."""
    found: set[int | None] = set()
    for seed in range(seeds):
        hints = system.shown(of, np.random.default_rng(seed)).hints
        assert hints is not None
        found.add(hints.target_frame)
    return found


def test_training_shows_the_target_frame_in_a_segment_and_no_truth() -> None:
    system = VideoSegR1.make(TINY)
    for seed in range(60):
        shown = system.shown(growing(), np.random.default_rng(seed))
        assert shown.targets == ()
        assert shown.notes == Notes()
        assert shown.hints is not None
        frame = shown.hints.target_frame
        segment = shown.hints.key_segment
        assert frame is not None
        assert segment is not None
        start, stop = segment
        assert 0 <= start <= frame < stop <= 20
        assert 2 <= stop - start <= 10


def test_training_shows_a_frame_with_a_large_target() -> None:
    system = VideoSegR1.make(TINY)
    assert target_frames(system, growing(), seeds=60) == {11, 13, 15, 17, 19}


def test_training_may_show_any_frame_with_the_target() -> None:
    system = VideoSegR1.make(TINY | {"training_frame": "visible"})
    assert target_frames(system, growing(), seeds=200) == set(range(1, 20, 2))


def test_training_may_leave_the_target_frame_to_the_sampler() -> None:
    system = VideoSegR1.make(TINY | {"training_frame": "sampler"})
    assert system.shown(growing(), np.random.default_rng(0)).hints is None


@pytest.mark.parametrize("of", [sample(boxes=()), sample(seen=())], ids=["none", "unseen"])
def test_training_without_a_visible_target_takes_any_frame(of: Sample) -> None:
    assert target_frames(VideoSegR1.make(TINY), of, seeds=80) == set(range(8))


def test_a_target_seen_in_no_frame_cannot_be_demonstrated() -> None:
    with pytest.raises(ValueError, match="'v/0': its targets are in none of the 8 frames"):
        VideoSegR1.make(TINY).demonstrate(sample(seen=()), np.random.default_rng(0))


# --- scoring by hand


LEFT_ONLY = [PERFECT[0]]
WRONG = [{"bbox_2d": [0, 80, 20, 100], "point_2d": [10, 90], "neg_point_2d": [0, 0]}]
WITHOUT_NEGATIVES = [
    {"bbox_2d": [28, 28, 53, 53], "point_2d": [40, 40]},
    {"bbox_2d": [112, 28, 137, 81], "point_2d": [125, 54]},
]
WITHOUT_A_POINT = [PERFECT[0], {"bbox_2d": [112, 28, 137, 81]}]


def accuracies(rewards: Sequence[Reward]) -> list[float]:
    return [reward.parts["accuracy"] for reward in rewards]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Parts: think_format, answer_format, accuracy, negative, non_repeat, length.
        (say(PERFECT), (1, 3, 3, 1, 1, 1)),
        (say(PERFECT[::-1]), (1, 3, 3, 1, 1, 1)),
        (say(LEFT_ONLY), (1, 3, 1.5, 1, 1, 1)),
        (say(PERFECT + WRONG), (1, 3, 2, 2 / 3, 1, 1)),
        (say(WITHOUT_NEGATIVES), (1, 2, 3, 0, 1, 1)),
        (say(WITHOUT_A_POINT), (1, 2, 0, 1, 1, 1)),
        # Not strict JSON.
        (say(PERFECT).replace('"', "'"), (1, 0, 0, 0, 1, 1)),
        # No object, although the frame shows two.
        (say([]), (1, 0, 0, 0, 1, 1)),
        # Out of form: text before the thought.
        ("x " + say(PERFECT), (0, 3, 3, 1, 1, 1)),
        # Repetitions.
        (say(PERFECT, "so. a. a. a. b"), (1, 3, 3, 1, 0, 1)),
        # Cut off, the second also with repetitions.
        (say(PERFECT) + "...", (0, 0, 0, 0, 1, 1)),
        ("a. a. a...", (0, 0, 0, 0, 0, 1)),
        ("", (0, 0, 0, 0, 1, 1)),
    ],
)
def test_parts_by_hand(text: str, expected: tuple[float, ...]) -> None:
    reward = score(text)
    *added, length = expected
    assert tuple(reward.parts.values()) == pytest.approx(expected)
    assert reward.total == pytest.approx(sum(added) * length)
    assert reward.per_turn == ()


def test_without_a_target_an_empty_list_is_right() -> None:
    none = sample(boxes=())
    assert parts(say([]), none) == (1, 3, 3, 0, 1, 1)
    assert parts(say(WRONG), none) == (1, 3, 0, 0, 1, 1)
    assert parts("<think>t</think><answer>none</answer>", none) == (1, 0, 0, 0, 1, 1)
    assert parts(say([]), none, answer="box") == (1, 1, 2, 0, 1, 1)
    assert score(say([]), none).total > score(say(WRONG), none).total


def test_a_target_frame_without_the_target_gives_no_accuracy() -> None:
    late = sample(seen=(5, 6))
    assert parts(say(PERFECT), late) == (1, 3, 0, 0, 1, 1)
    assert parts(say([]), late) == (1, 0, 0, 0, 1, 1)

    hinted = replace(late, hints=Hints(5, (4, 7)))
    episode, _, system = play(say(PERFECT), hinted)
    assert accuracies(system.score(late, [episode])) == [3]


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
def test_ablation_of_answers(answer: str, form: int, accuracy: int, negative: int) -> None:
    reward = score(say(PERFECT), answer=answer)
    assert reward.parts["answer_format"] == form
    assert reward.parts["accuracy"] == accuracy
    assert reward.parts["negative"] == negative


def test_the_iou_of_masks() -> None:
    system = VideoSegR1.make(TINY | {"iou_source": "mask"})
    # An object without a usable mask prompt: a reversed box, and a point outside the video.
    useless = {"bbox_2d": [50, 50, 20, 20], "point_2d": [500, 0]}
    group = []
    for rows in (PERFECT, PERFECT, [useless, *PERFECT], PERFECT[::-1]):
        episode, _, _ = play(say(rows))
        assert len(episode.answer.prompts) == 2
        group.append(episode)

    right = drawn(sample(), (LEFT, RIGHT), (LEFT, RIGHT), (LEFT, RIGHT), (RIGHT, LEFT))
    assert accuracies(system.score(sample(), group, right)) == [3, 3, 2, 3]

    off = (0, 0, 5, 5)
    half_wrong = drawn(sample(), (LEFT, off), (LEFT, off), (LEFT, off), (off, LEFT))
    assert accuracies(system.score(sample(), group, half_wrong)) == [2.5, 2.5, 5 / 3, 2.5]

    failed = drawn(sample(), *[(None, None)] * 4)
    assert accuracies(system.score(sample(), group, failed)) == [2, 2, 4 / 3, 2]


def test_a_good_mask_of_a_loose_box_earns_the_iou() -> None:
    of = sample(boxes=(LEFT,))
    episode, _, by_box = play(say([{"bbox_2d": [0, 0, 60, 60], "point_2d": [40, 40]}]), of)
    by_mask = VideoSegR1.make(TINY | {"iou_source": "mask"})
    assert accuracies(by_box.score(of, [episode])) == [1]
    assert accuracies(by_mask.score(of, [episode], drawn(sample(), (LEFT,)))) == [2]


def test_the_iou_of_masks_needs_masks() -> None:
    episode, _, system = play(say(PERFECT), iou_source="mask")
    assert system.masks_by == "segmenter"
    assert VideoSegR1.make(TINY).masks_by == ""
    with pytest.raises(AssertionError, match="computed from masks"):
        system.score(sample(), [episode])


def say_words(count: int) -> str:
    """The perfect answer after a thought of `count` different words."""
    words = [f"w{number}" for number in range(count)]
    return say(PERFECT, " ".join(words))


def test_a_long_thought_lowers_the_reward() -> None:
    # 64 words are allowed.
    assert score(say_words(100)).parts["length"] == pytest.approx(1 - 0.36)
    assert score(say_words(300)).total == 0
    # As published, the factor may be negative.
    assert score(say_words(300), length_penalty="paper").total < 0


def test_an_easy_sample_allows_fewer_words() -> None:
    easy = sample(notes=Notes(difficulty=2.0))
    hard = sample(notes=Notes(difficulty=9))
    assert score(say_words(100), easy).total == pytest.approx(9 * (1 - 0.52))
    assert score(say_words(100), hard).parts["length"] == pytest.approx(1 - 0.04)


@pytest.mark.parametrize("options", [{"length_penalty": "none"}, {"think": False}])
def test_options_without_a_length_penalty(options: dict[str, Any]) -> None:
    easy = sample(notes=Notes(difficulty=2.0))
    assert score(say_words(100), easy, **options).parts["length"] == 1


def test_a_difficulty_that_is_no_number() -> None:
    odd = sample(notes=Notes(difficulty=cast(Any, "hard")))
    message = "'v/0': difficulty = 'hard': expected a number from 1 to 10"
    with pytest.raises(ValueError, match=message):
        difficulty_of(odd)


def test_rewards_without_a_chain_of_thought() -> None:
    text = f"<answer>{json.dumps(PERFECT)}</answer>"
    expected = (0, 3, 3, 1, 1, 1)
    assert parts(text, think=False) == expected
    assert parts(say(PERFECT), think=False) == expected


def test_a_group_is_scored_in_order_over_different_frames() -> None:
    system = VideoSegR1.make(TINY)
    late = sample(seen=(5, 6))
    hinted = replace(late, hints=Hints(5, (4, 7)))
    group = []
    for text, of in (
        (say(PERFECT), late),
        (say(PERFECT), hinted),
        ("", late),
        (say(LEFT_ONLY), hinted),
    ):
        episode, _, _ = play(text, of)
        group.append(episode)
    assert accuracies(system.score(late, group)) == [0, 3, 0, 1.5]


def test_a_failed_episode_is_never_scored() -> None:
    episode, _, system = play(say(PERFECT))
    with pytest.raises(AssertionError):
        system.score(sample(), [replace(episode, end=End.FAILED)])


# --- demonstrating


@pytest.mark.parametrize(
    "options", [{}, {"prompt": "full"}, {"think": False}, {"answer": "box"}, {"answer": "point"}]
)
@pytest.mark.parametrize(
    "of",
    [sample(), sample(1), sample(boxes=()), sample(seen=(6,))],
    ids=["2", "image", "none", "late"],
)
def test_a_demonstration_earns_what_can_be_earned(of: Sample, options: dict[str, Any]) -> None:
    system = VideoSegR1.make(TINY | options)
    keys = system.options.lengths
    for seed in range(3):
        ((content, text),) = system.demonstrate(of, np.random.default_rng(seed))
        script = ScriptedAsk(text)
        shown = system.shown(of, np.random.default_rng(seed))
        episode = asyncio.run(system.play(shown, script))
        assert script.contents == [content]
        assert len(episode.answer.prompts) == len(of.targets)

        (reward,) = system.score(of, [episode])
        assert reward.parts["answer_format"] == len(keys)
        assert reward.parts["think_format"] == system.options.think
        assert reward.parts["accuracy"] == 2 * ("bbox_2d" in keys) + ("point_2d" in keys)
        assert reward.parts["negative"] == ("neg_point_2d" in keys and bool(of.targets))


def demonstrated_text(of: Sample) -> str:
    ((_, text),) = VideoSegR1.make(TINY).demonstrate(of, np.random.default_rng(0))
    return text


def test_a_demonstration_uses_the_notes() -> None:
    names = ("red dog", "blue dog")
    thoughtful = sample(notes=Notes(thought="they bark", names=names))
    assert "<think>they bark</think>" in demonstrated_text(thoughtful)
    named = sample(notes=Notes(names=names))
    assert "red dog and blue dog" in demonstrated_text(named)


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
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoSegR1.make(TINY | options)


def test_the_system_by_its_name() -> None:
    system = systems.make("videoseg_r1", {"reference_frames": 0, "sampler_samples": 4})
    assert isinstance(system, VideoSegR1)
    assert system.name == "videoseg_r1"
    assert system.options.plan.samples == 4
    assert system.options.plan.mode == "full"


@pytest.mark.parametrize("preset", ["videoseg_r1_7b", "videoseg_r1_3b"])
def test_presets_fit_the_system(preset: str) -> None:
    cfg = load([preset])
    options = VideoSegR1.make(cfg.system.options).options
    assert options.target_hw == (840, 840)
    assert options.negative_limit == 40
    assert options.answer == "all"
    assert cfg.rollout.prompts_per_step == 16
    assert cfg.rollout.group_size == 8
    assert cfg.learner.lr == 1e-6
    size = preset[-2:].upper()
    assert cfg.policy.path.endswith(f"{size}-Instruct")


def test_scores_do_not_depend_on_the_default_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert score(say(PERFECT)).total == 9
        assert taxicab_distance(torch.zeros(2, 2) > 0).dtype == torch.int32
    finally:
        torch.set_default_dtype(torch.float32)
