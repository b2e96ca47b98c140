"""ReVSeg played by a scripted policy, scored by hand-made ground truth."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import systems
from core.masks import encode
from core.types import End, Reward, Sample, Target, Turn, Video, View
from systems.revseg import ReVSeg, ReVSegOptions, has_box_form, read_box, read_keyframe

TINY = {
    "num_frames": 4, "frame_height": 56, "frame_width": 84, "keyframe_height": 112, "keyframe_width": 168,
    "prompt": "short",
}  # fmt: skip
SIDES = {1: 10, 3: 20, 5: 40}  # side of the square target in the frames that show it; the sampled ones are 1 3 5 7
GOOD_1 = '<think>it grows</think><answer>[{"frame_idx": 2, "object description": "red square"}]</answer>'
GOOD_2 = '<answer>[{"bbox_2d":[0,0,112,112],"label":"red square"}]</answer>'


def square(side: int, height: int, width: int):
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[:side, :side] = True
    return encode(mask_HW)


def sample(sides=None, height=40, width=60, **changes) -> Sample:
    """8 frames with a square in the upper left corner. Keyframe views scale height by 2.8 and width by 2.8."""
    masks_F = tuple(square(s, height, width) if s else None for s in map((sides or SIDES).get, range(8)))
    video = Video("v", "videos/v", tuple(f"{i:05d}" for i in range(8)), height, width)
    return replace(Sample("v/0", video, "the square that grows", (Target("a", masks_F),)), **changes)


class Script:
    """Says the given texts in turn and remembers what it was asked. A text that ends in "..." was cut off."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked, self.budgets = list(texts), [], []

    async def __call__(self, content, *, max_tokens, trainable=True) -> Turn:
        self.asked.append(list(content))
        self.budgets.append(max_tokens)
        text = self.texts[len(self.asked) - 1]
        return Turn((1,), (2,), (-0.5,), text, (), not text.endswith("..."), version=0)


def play(*texts: str, of: Sample | None = None, **options):
    script, system = Script(*texts), ReVSeg.make(TINY | options)
    episode = asyncio.run(system.play(of or sample(), script))
    assert len(script.asked) == len(episode.turns)
    return episode, script, system


def score(*texts: str, of: Sample | None = None, **options) -> Reward:
    episode, _, system = play(*texts, of=of, **options)
    (reward,) = system.score(of or sample(), [episode])
    assert reward.total == pytest.approx(sum(reward.per_turn)) and len(reward.per_turn) == len(episode.turns)
    return reward


# --- playing


def test_two_rounds():
    episode, script, _ = play(GOOD_1, GOOD_2)
    low = [View(frame, 56, 84) for frame in (1, 3, 5, 7)]
    assert script.asked[0] == ["0", low[0], "1", low[1], "2", low[2], "3", low[3], " Find the square that grows."]
    assert script.asked[1] == [View(5, 112, 168), "Locate the red square."]
    assert script.budgets == [1024, 256]
    assert episode.end is End.DONE and len(episode.turns) == 2
    (prompt,) = episode.answer.prompts
    assert prompt.frame == 5 and prompt.box == pytest.approx((0, 0, 40, 40))  # original pixels
    assert json.loads(json.dumps(episode.answer.facts)) == {
        "frame_idx": 2, "frame": 5, "description": "red square", "box": [0, 0, 112, 112],
        "tags_1": True, "json_1": True, "tags_2": True, "json_2": True,
    }  # fmt: skip


def test_an_unreadable_first_round_ends_the_episode():
    episode, script, _ = play("<think>hm</think><answer>the square</answer>")
    assert episode.end is End.UNREADABLE and len(script.asked) == 1
    assert episode.answer.prompts == () and episode.answer.facts["tags_1"] is True


@pytest.mark.parametrize("texts", [(GOOD_1 + "...",), (GOOD_1, GOOD_2 + "...")])
def test_a_cut_off_answer_is_not_read(texts):
    episode, *_ = play(*texts)
    assert episode.end is End.TRUNCATED and episode.answer.prompts == ()
    assert episode.answer.facts[f"json_{len(texts)}"] is False is episode.answer.facts[f"tags_{len(texts)}"]


def test_an_unreadable_box():
    episode, *_ = play(GOOD_1, "no idea")
    assert episode.end is End.UNREADABLE and episode.answer.facts["frame"] == 5


def test_a_description_cannot_smuggle_in_an_image():
    _, script, _ = play(GOOD_1.replace("red square", "red <|image_pad|>"), GOOD_2)
    assert script.asked[1][1] == "Locate the red image_pad."


def test_fewer_frames_than_asked_are_all_shown():
    episode, script, _ = play(GOOD_1.replace("2", "15"), num_frames=16)
    assert sum(isinstance(x, View) for x in script.asked[0]) == 8
    assert episode.end is End.UNREADABLE  # 15 is no index into 8 frames


def test_full_prompts_say_what_is_needed():
    _, script, _ = play(GOOD_1, GOOD_2, prompt="full", strict_turn2_tags=True)
    first, second = script.asked
    assert [first[0], first[2]] == ["Frame 0:", "Frame 1:"]
    for words in ('"the square that grows"', "4 frames", "2 seconds", "2 frames per second", "<think>", "0 to 3"):
        assert words in first[-1]
    assert read_keyframe(first[-1][first[-1].rindex("<think>") :], 16) == (5, "brown dog lying to the left of the sofa")
    for words in ("168 x 112", '"red square"', "bbox_2d", "<think>"):
        assert words in second[-1]


def test_all_at_once():
    text = GOOD_1.replace("}]", ', "bbox_2d": [0, 0, 56, 56]}]')
    for prompt in ("short", "full"):
        episode, script, system = play(text, decompose=False, prompt=prompt)
        assert episode.end is End.DONE and script.budgets == [1280]
        assert episode.answer.prompts[0].box == pytest.approx((0, 0, 40, 40))  # the low-resolution frame was 84 wide
        (reward,) = system.score(sample(), [episode])
        assert reward.total == 3 and reward.per_turn == (3,)
    task = script.asked[0][-1]
    assert read_box(task[task.rindex("<think>") :], (840, 840)) == (96, 210, 251, 330)


# --- reading

EIGHT = 8
WANTED = (3, "a cat")


@pytest.mark.parametrize(
    "body",
    [
        '[{"frame_idx": 3, "object description": "a cat"}]',
        "[{'frame_idx': 3, 'object description': 'a cat'}]",
        '{"frame_idx": 3, "object description": "a cat"}',
        '```json\n[{"frame_idx": 3, "object description": "a cat"}]\n```',
        '[{"frame_idx": 3.0, "object description": " a  cat "}]',
        '[{"frame_idx": 3, "object description": "a cat"}, {"frame_idx": 5, "object description": "a dog"}]',
    ],
)
def test_keyframe_is_read(body):
    assert read_keyframe(f"<think>t</think><answer>{body}</answer>", EIGHT) == WANTED
    assert read_keyframe(f"<answer>{body}</answer>", EIGHT) == WANTED  # no thought: costs a format rule only
    assert read_keyframe(body, EIGHT) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "frame 3",
        '[{"frame_idx": 3}]',
        '[{"object description": "a cat"}]',
        '[{"frame_idx": 3, "object_description": "a cat"}]',
        '[{"frame_idx": 3, "object description": ""}]',
        '[{"frame_idx": 3, "object description": "<|"}]',
        '[{"frame_idx": 3, "object description": 7}]',
        '[{"frame_idx": 3.5, "object description": "a cat"}]',
        '[{"frame_idx": "3", "object description": "a cat"}]',
        '[{"frame_idx": true, "object description": "a cat"}]',
        '[{"frame_idx": 8, "object description": "a cat"}]',
        '[{"frame_idx": -1, "object description": "a cat"}]',
        '[{"frame_idx": 1e999, "object description": "a cat"}]',
        '[3, {"frame_idx": 3, "object description": "a cat"}]',
    ],
)
def test_keyframe_is_not_read(body):
    assert read_keyframe(f"<think>t</think><answer>{body}</answer>", EIGHT) is None


BOX = '[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]'


@pytest.mark.parametrize(
    "text, strict_form, loose_form",
    [
        (f"<think>t</think><answer>{BOX}</answer>", True, True),
        (f"<answer>{BOX}</answer>", False, True),
        (f"```json\n{BOX}\n```", False, True),
        (BOX[1:-1], False, True),
        (BOX.replace('"', "'"), False, True),
        (f"<think>not [{{'bbox_2d': [0, 0, 9, 9]}}]</think>{BOX}", False, True),
        (f"The cat's box is {BOX}.", False, False),
    ],
)
def test_box_is_read(text, strict_form, loose_form):
    assert read_box(text, (50, 50)) == (10, 20, 30, 40)
    assert read_box(text, (50, 50), strict=True) == ((10, 20, 30, 40) if "<answer>" in text else None)
    assert (has_box_form(text, strict=True), has_box_form(text)) == (strict_form, loose_form)


@pytest.mark.parametrize(
    "row, box",
    [
        ("[-5, 20, 30, 99]", (0, 20, 30, 50)),  # clipped
        ("[1.5, 2, 3.5, 4]", (1.5, 2, 3.5, 4)),
        ("[30, 20, 10, 40]", None),
        ("[10, 20, 10, 40]", None),
        ("[60, 20, 70, 40]", None),  # outside
        ("[10, 20, 30]", None),
        ('[10, 20, 30, "40"]', None),
        ("[10, 20, 30, NaN]", None),
        ("[10, 20, 30, 1e999]", None),
        ("null", None),
        ("[[10, 20], [30, 40]]", None),
    ],
)
def test_box_edges(row, box):
    assert read_box(f'[{{"bbox_2d": {row}}}]', (50, 50)) == box


def test_the_largest_readable_box_counts():
    rows = '[{"bbox_2d": [0,0,2,2]}, {"bbox_2d": [0,0,4,4]}, {"bbox_2d": [9,9,1,1]}, {"label": "x"}]'
    assert read_box(rows, (50, 50)) == (0, 0, 4, 4)


@st.composite
def damaged(draw, text: str) -> str:
    """`text` with pieces cut out, doubled or replaced."""
    for _ in range(draw(st.integers(0, 4))):
        start, stop = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        piece = draw(st.sampled_from(["", text[start:stop] * 2, "[", "}", "\\", "9" * 500, "1e999", "NaN", "\ud800"]))
        text = text[:start] + piece + text[stop:]
    return text


@settings(deadline=None)  # a busy machine is no failure
@given(st.one_of(st.text(), damaged(GOOD_1)), st.one_of(st.text(), damaged(GOOD_2)), st.booleans(), st.booleans())
def test_no_completion_raises(first, second, decompose, strict):
    both = GOOD_1[:-11] + ", " + second + "}]</answer>"
    texts = [first, second] if decompose else [both]
    script, system = Script(*texts), ReVSeg.make(TINY | {"decompose": decompose, "strict_turn2_tags": strict})
    episode = asyncio.run(system.play(sample(), script))
    (reward,) = system.score(sample(), [episode])
    assert (episode.end is End.DONE) == bool(episode.answer.prompts)
    assert 0 <= reward.total <= 3
    json.dumps(episode.answer.facts, allow_nan=False)
    for content in script.asked:  # a tokenizer takes valid Unicode only
        " ".join(x for x in content if isinstance(x, str)).encode()


# --- scoring


@pytest.mark.parametrize(
    "texts, parts",
    [
        ((GOOD_1, GOOD_2), (1, 1, 1)),
        ((GOOD_1.replace("2", "1"), GOOD_2), (1, 0.25, 0)),  # 20 x 20 against 40 x 40 at most; the box is too large
        ((GOOD_1.replace("2", "3"), GOOD_2), (1, 0, 0)),  # not visible
        ((GOOD_1, GOOD_2.replace("112]", "50]")), (1, 1, 0)),  # IoU .45
        ((GOOD_1, GOOD_2.replace("112]", "56]")), (1, 1, 0)),  # IoU .5 exactly: not above
        ((GOOD_1, GOOD_2.replace("112]", "57]")), (1, 1, 1)),
        ((GOOD_1, "sorry"), (0.5, 1, 0)),
        ((GOOD_1, "[{}]"), (0.75, 1, 0)),  # JSON but no box
        ((GOOD_1, "here: " + GOOD_2), (0.75, 1, 1)),  # readable, not in form
        ((GOOD_1.partition("</think>")[2], GOOD_2), (0.75, 1, 1)),  # no thought
        (("<think>t</think><answer>?</answer>",), (0.25, 0, 0)),
        (("",), (0, 0, 0)),
        ((GOOD_1 + "...",), (0, 0, 0)),
    ],
)
def test_parts_by_hand(texts, parts):
    reward = score(*texts)
    assert tuple(reward.parts.values()) == pytest.approx(parts) and reward.total == pytest.approx(sum(parts))


def test_parts_and_turns_with_weights():
    reward = score(GOOD_1, GOOD_2, weights={"format": 1, "temporal": 10, "spatial": 100})
    assert list(reward.parts) == ["format", "temporal", "spatial"]
    assert reward.total == 111 and reward.per_turn == (10.5, 100.5)


def test_presets_of_weights():
    assert ReVSegOptions().weights_3 == (1, 1, 1)
    assert score(GOOD_1, GOOD_2, weights="curve").total == pytest.approx(1.0)


@pytest.mark.parametrize(
    "form, temporal, spatial, total",
    [(0.998, 0.495, 0.589, 0.339), (0.999, 0.543, 0.606, 0.347), (1, 0.571, 0.623, 0.355), (1, 0.594, 0.688, 0.376)],
)
def test_the_curve_preset_is_twice_the_published_curve(form, temporal, spatial, total):
    """Steps 100, 200, 400 and 500 of the digitised training curves, which are read to about .003."""
    by_format, by_temporal, by_spatial = ReVSegOptions(weights="curve").weights_3
    assert (by_format * form + by_temporal * temporal + by_spatial * spatial) / 2 == pytest.approx(total, abs=0.004)


@pytest.mark.parametrize("kind, expected", [("none", 0), ("binary", 1), ("soft", 0.25)])
def test_temporal_ablation(kind, expected):
    assert score(GOOD_1.replace("2", "1"), GOOD_2, temporal_reward=kind).parts["temporal"] == expected


def test_always_visible_and_always_the_same():
    assert score(GOOD_1, GOOD_2, of=sample(dict.fromkeys(range(8), 40))).parts["temporal"] == 1
    always = sample({frame: 10 + frame for frame in range(8)})
    assert score(GOOD_1.replace("2", "0"), GOOD_2, of=always).parts["temporal"] == 0  # the smallest visible


def test_only_sampled_frames_set_the_scale():
    assert score(GOOD_1, GOOD_2, of=sample(SIDES | {4: 40, 5: 30})).parts["temporal"] == 1


def test_no_target_earns_format_only():
    assert score(GOOD_1, GOOD_2, of=sample(targets=())).total == 1


def test_several_targets_are_one_union():
    mask_HW = np.zeros((40, 60), dtype=bool)
    mask_HW[:40, 40:60] = True
    other = Target("b", tuple(encode(mask_HW) if frame == 5 else None for frame in range(8)))
    pair = sample(targets=(*sample().targets, other))
    assert score(GOOD_1, GOOD_2.replace("112,112", "168,112"), of=pair).parts["spatial"] == 1
    assert score(GOOD_1, GOOD_2.replace("112,112", "80,112"), of=pair).parts["spatial"] == 0


def test_a_group_is_scored_in_order():
    group, system = [play(GOOD_1, GOOD_2)[0], play("")[0], play(GOOD_1, "?")[0]], ReVSeg.make(TINY)
    assert [r.total for r in system.score(sample(), group)] == [3, 0, 1.5]


def test_a_failed_episode_is_never_scored():
    episode, _, system = play(GOOD_1, GOOD_2)
    with pytest.raises(AssertionError):
        system.score(sample(), [replace(episode, end=End.FAILED)])


# --- demonstrating


@pytest.mark.parametrize(
    "options",
    [{}, {"prompt": "full"}, {"strict_turn2_tags": True}, {"decompose": False}, {"keyframe_width": 28}],
)
def test_a_demonstration_earns_what_can_be_earned(options):
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        turns = ReVSeg.make(TINY | options).demonstrate(sample(), rng)
        episode, script, system = play(*(text for _, text in turns), **options)
        assert script.asked == [content for content, _ in turns]
        (reward,) = system.score(sample(), [episode])
        assert reward.parts["format"] == reward.parts["spatial"] == 1
        seen.add(episode.answer.facts["frame"])
    assert seen == {1, 3, 5}


def test_a_demonstration_uses_the_notes():
    noted = sample({5: 40}, notes={"thought": "it grows", "names": ["red square"]})
    (_, first), (content, second) = ReVSeg.make(TINY).demonstrate(noted, np.random.default_rng(0))
    assert (first, second) == (GOOD_1, GOOD_2) and content[1] == "Locate the red square."
    several = replace(noted, notes={"names": ["red square", "blue circle"]})
    assert "red square and blue circle" in ReVSeg.make(TINY).demonstrate(several, np.random.default_rng(0))[0][1]


def test_nothing_to_demonstrate():
    with pytest.raises(ValueError, match="'v/0'.*no target"):
        ReVSeg.make(TINY).demonstrate(sample({0: 10}), np.random.default_rng(0))


# --- options


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_frame": 8}, r"system\.options\.num_frame is unknown; did you mean 'num_frames'"),
        ({"num_frames": "8"}, r"system\.options\.num_frames = '8' \(str\): expected a whole number"),
        ({"num_frames": True}, "expected a whole number"),
        ({"num_frames": 0}, "at least 1"),
        ({"decompose": 1}, "expected true or false"),
        ({"iou_threshold": "high"}, "expected a number"),
        ({"iou_threshold": 1.0}, r"\[0, 1\)"),
        ({"prompt": "long"}, "expected one of 'full', 'short'"),
        ({"temporal_reward": None}, "'none', 'binary', 'soft'"),
        ({"frame_width": 450}, "multiple of 28"),
        ({"weights": "papers"}, "expected one of 'paper', 'curve' or a mapping to a number"),
        ({"weights": {"format": 1, "temporal": 1, "spatal": 1}}, "weights.spatal is unknown; did you mean 'spatial'"),
        ({"weights": {"format": 1}}, "weights lacks temporal, spatial"),
        ({"weights": {"format": "1", "temporal": 1, "spatial": 1}}, "mapping to a number"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        ReVSeg.make(options)


def test_systems_by_name():
    assert systems.make("revseg", {"num_frames": 8}).name == "revseg"
    with pytest.raises(ValueError, match="'revsge' is unknown; did you mean 'revseg'. There are: revseg"):
        systems.make("revsge", {})


def test_scores_do_not_depend_on_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        assert score(GOOD_1, GOOD_2).total == 3
    finally:
        torch.set_default_dtype(torch.float32)
