"""VideoSEG-O3 played by a scripted policy, scored by hand-made ground truth and by a plain reading of the release."""

import ast
import asyncio
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import systems
from configs.load import load
from core.masks import encode
from core.traces import Look, write_look
from core.types import End, Reward, Sample, SegPrompt, Target, Turn, Video, View
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_o3_answers import keeps_form, named_steps, read_last, read_turn
from systems.videoseg_o3_options import BUDGETS, WEIGHTS, fit, spread

TINY = {
    "temporal_frames": 4, "spatial_frames": 2, "round_frames": 3, "factor": 28, "temporal_pixels": 28 * 28 * 2,
    "spatial_pixels": 28 * 28 * 6, "prompt": "short",
}  # fmt: skip
T, HEIGHT, WIDTH = 12, 40, 60
SEEN = range(4, 9)  # frames that show the target
SEG_ID, END_ID = 7, 9
UNPAID = {"mask": 0, "keyframe_gain": 0, "progress": 0}
STEPS = "Step 1: a. Step 2: b. Step 3: c. Action: d."


def say(action: str, start: int, end: int, keyframe: int, seg: str = "[SEG]") -> str:
    vtg = f'<VTG>{{"start": {start}, "end": {end}, "keyframe": {keyframe}}}</VTG>'
    return f"<think>{STEPS}</think><{action}>{vtg}<RefSeg>{seg}</RefSeg></{action}>"


SELECT, SELECT_2, ANSWER = say("select", 2, 9, 5), say("select", 3, 8, 6), say("answer", 4, 8, 7)


def square(side: int = 20) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask_HW[:side, :20] = True
    return mask_HW


def sample(seen=SEEN, **changes) -> Sample:
    """12 frames of 40 x 60, a square of 20 x 20 in the upper left corner of some."""
    masks_F = tuple(encode(square()) if f in seen else None for f in range(T))
    video = Video("v", "videos/v", tuple(f"{i:05d}" for i in range(T)), HEIGHT, WIDTH)
    return replace(Sample("v/0", video, "the dog", (Target("a", masks_F),)), **changes)


class Script:
    """Says the given texts in turn; one that ends in "..." was cut off. Ids: 1 for each word, [SEG] its own."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked, self.budgets = texts, [], []

    def id_of(self, token: str) -> int | None:
        return SEG_ID if token == "[SEG]" else None

    async def __call__(self, content, *, max_tokens, trainable=True) -> Turn:
        self.asked.append(list(content))
        self.budgets.append(max_tokens)
        text = self.texts[len(self.asked) - 1]
        ids = [SEG_ID if piece == "[SEG]" else 1 for piece in re.split(r"(\[SEG\])", text)] + [END_ID]
        return Turn((1,), tuple(ids), (-0.5,) * len(ids), text, (), not text.endswith("..."), version=0)


class Mute(Script):
    """Does not tell the ids of its tokens."""

    id_of = None  # type: ignore[assignment]


def play(*texts: str, of: Sample | None = None, script=Script, **options):
    policy, system = script(*texts), VideoSegO3.make(TINY | options)
    episode = asyncio.run(system.play(of or sample(), policy))
    assert len(policy.asked) == len(episode.turns)
    return episode, policy, system


def score(*texts: str, draw=None, of: Sample | None = None, **options) -> Reward:
    """`draw` makes the mask of a prompt; without it the rewards of masks are off."""
    episode, _, system = play(*texts, of=of, **({} if draw else {"weights": UNPAID}) | options)
    masks = [[draw(seg) for seg in episode.answer.segs]] if draw else None
    (reward,) = system.score(of or sample(), [episode], masks)
    return reward


# --- playing


def test_three_turns():
    episode, script, _ = play(SELECT, SELECT_2, ANSWER)
    small, large, key = (28, 56), (56, 84), (28, 56)
    first = [("0", View(0, *small)), ("3", View(3, *small)), ("7", View(7, *small)), ("11", View(11, *small))]
    first += [("0", View(0, 28, 56)), ("11", View(11, 28, 56))]
    assert script.asked[0] == [piece for pair in first for piece in pair] + [" Find the dog."]
    part = [("2", View(2, *small)), ("5", View(5, *small)), ("9", View(9, *small)), ("5", View(5, *key))]
    assert script.asked[1] == [piece for pair in part for piece in pair] + [" Find the dog."]
    assert [x for x in script.asked[2] if isinstance(x, str)] == ["3", "5", "8", "6", " Answer the dog."]
    assert script.budgets == [512] * 3 and large != small
    assert episode.end is End.DONE and episode.answer.prompts == ()
    assert json.loads(json.dumps(episode.answer.facts)) == {
        "rounds": [
            {"action": "select", "frame": 6, "start": 2, "stop": 10, "keyframe": 5},
            {"action": "select", "frame": 5, "start": 3, "stop": 9, "keyframe": 6},
            {"action": "answer", "frame": 6, "start": 4, "stop": 9, "keyframe": 7},
        ],
        "spatial": [0, 11],
        "frame": 6,
    }


def test_masks_are_asked_for():
    episode, *_ = play(SELECT, ANSWER)
    assert episode.answer.segs == (
        SegPrompt(0, 1, 6), SegPrompt(0, 1, 0, "video"), SegPrompt(0, 1, 11, "video"),
        SegPrompt(1, 1, 5), SegPrompt(1, 1, 0, "video"), SegPrompt(1, 1, 11, "video"), SegPrompt(1, 1, 5, "final"),
    )  # fmt: skip
    for seg in episode.answer.segs:
        assert episode.turns[seg.turn].completion_ids[seg.position] == SEG_ID


@pytest.mark.parametrize(
    "texts, released, own",
    [
        ((ANSWER,), ([6], 7), ([7], 7)),
        ((SELECT, ANSWER), ([6, 5], 5), ([5, 7], 7)),
        ((SELECT, SELECT_2, SELECT), ([6, 5, 6], 5), ([5, 6, 5], 5)),  # the last one is followed by nothing
        (("[SEG]",), ([6], 11), ([6], 6)),  # unreadable: the middle of [0, 11] as released
        ((SELECT, "[SEG]"), ([6, 5], 5), ([5, 5], 5)),
    ],
)
def test_keyframe_rules(texts, released, own):
    for rule, (frames, final) in (("as_released", released), ("own", own)):
        episode, *_ = play(*texts, keyframe_rule=rule)
        segs = episode.answer.segs
        assert [seg.frame for seg in segs if seg.role == "keyframe"] == frames
        assert [seg.frame for seg in segs if seg.role == "final"] == [final] == [episode.answer.facts["frame"]]


def test_several_segs_in_a_turn():
    many = ANSWER.replace("[SEG]", "[SEG] and [SEG] and [SEG]")
    for most, places in ((1, [5]), (2, [3, 5]), (5, [1, 3, 5])):
        segs = play(many, segs_per_turn=most)[0].answer.segs
        assert [seg.position for seg in segs if seg.role == "keyframe"] == places
        assert [seg.position for seg in segs if seg.role == "final"] == [5]


def test_a_policy_that_does_not_tell_ids_gets_no_masks():
    episode, *_ = play(SELECT, ANSWER, script=Mute)
    assert episode.end is End.DONE and episode.answer.segs == ()


@pytest.mark.parametrize(
    "text, end",
    [
        ("", End.UNREADABLE),
        ("the dog", End.UNREADABLE),
        (say("answer", 8, 4, 5), End.UNREADABLE),
        (say("select", 8, 4, 5), End.UNREADABLE),
        (say("answer", 4, 8, 5, seg="the dog"), End.UNREADABLE),  # nothing to make a mask of
        (ANSWER + "...", End.TRUNCATED),
        (SELECT + "...", End.TRUNCATED),
        (ANSWER, End.DONE),
        (say("answer", 6, 6, 6), End.DONE),
        (say("answer", -3, 99, 99), End.DONE),
    ],
)
def test_how_an_episode_ends(text, end):
    episode, *_ = play(text)
    assert episode.end is end and len(episode.turns) == 1
    assert (episode.answer.segs == ()) == ("[SEG]" not in text or text.endswith("..."))


def test_one_turn_only():
    episode, script, _ = play(SELECT, max_turns=1)
    assert episode.end is End.DONE and len(script.asked) == 1
    full = play(ANSWER, max_turns=1, prompt="full")[1].asked[0][-1]
    assert "<select>" not in full and "<answer>" in full


def test_full_prompts_say_what_is_needed():
    _, script, _ = play(SELECT, SELECT_2, ANSWER, prompt="full")
    first, second, third = script.asked
    assert first[:2] == ["The whole video, small:", "Frame 0:"]
    for words in ('"the dog"', "12 frames", "0 to 11", "Step 1", "Step 2", "Step 3", "Action", "<think>"):
        assert words in first[-1]
    examples = re.findall(r"<(?:select|answer)>.*?</(?:select|answer)>", first[-1])
    assert len(examples) == 2 and all(keeps_form(f"<think></think>{text}") for text in examples)
    assert second[0] == "Frames 2 to 9:" and "Select another" in second[-1]
    assert "Now answer" in third[-1] and '"the dog"' in third[-1]


def test_a_budget_of_the_release():
    options = systems.make("videoseg_o3", {}).options
    assert (options.frames.temporal_frames, options.frames.key_pixels, options.frames.max_tokens) == (10, 200_704, 512)
    one = sample(video=replace(sample().video, height=720, width=1280, frame_names=("a",) * 300))
    for budget, count, tokens in (("rl", 15, (24, 98, 196)), ("evaluation", 28, (24, 196, 392))):
        system = VideoSegO3.make({"budget": budget})
        views = [x for x in system.ask_first(one) if isinstance(x, View)]
        views += [x for x in system.ask_more(one, Look(50, 90, 60), last=False) if isinstance(x, View)]
        assert len(views) == count + 6
        sizes = sorted({view.height * view.width // 32**2 for view in views})
        assert len(sizes) == 3 and all(0.75 * most <= size <= most for size, most in zip(sizes, tokens, strict=True))
        assert views[count].frame == 50 and views[-2].frame == 89  # the part's last frame is shown


def test_sizes_fit_the_budget_and_keep_the_aspect():
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(x) for x in rng.integers(1, 3000, 2))
        factor, tokens = int(rng.choice([28, 32])), int(rng.integers(1, 600))
        rows, columns = (side / factor for side in fit(height, width, tokens * factor**2, factor))
        assert rows == int(rows) >= 1 and columns == int(columns) >= 1 and rows * columns <= tokens
        if min(rows, columns) >= 4:
            assert abs(math.log(rows / columns * width / height)) < math.log(1.4)
    assert fit(112, 112, 10**6, 28) == (112, 112) and fit(480, 854, 10**6, 32) == (480, 864)
    assert fit(10, 5000, 784 * 50, 28) == (28, 1400)  # a strip


@pytest.mark.parametrize(
    "frames, count, shown",
    [
        (300, 4, [0, 99, 199, 299]),
        (5, 4, [0, 1, 2, 3, 4]),
        (6, 4, [0, 1, 3, 5]),
        (1, 5, [0]),
        (9, 1, [4]),
        (2, 1, [0, 1]),
    ],
)
def test_spread(frames, count, shown):
    assert spread(frames, count) == shown


@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_videos_of_any_length(frames):
    of = sample(video=replace(sample().video, frame_names=("f",) * frames), targets=())
    texts = (say("select", 0, 0, 0), say("select", 0, 99, 99), say("answer", 0, 99, 50))
    for rule in ("as_released", "own"):
        episode, script, system = play(*texts, of=of, keyframe_rule=rule)
        assert episode.end is End.DONE and len(script.asked) == 3
        masks = [square(0)] * len(episode.answer.segs)
        (reward,) = system.score(of, [episode], [masks])
        assert reward.parts["span"] == 0.5 and reward.parts["mask"] == 1.5  # nothing to find, nothing drawn


# --- reading

LOOK = Look(3, 9, 5)
BODY = '<VTG>{"start": 3, "end": 8, "keyframe": 5}</VTG>'


@pytest.mark.parametrize(
    "text, strict, bare",
    [
        (f"<select>{BODY}</select>", LOOK, LOOK),
        (f"<think>t</think>\n<select> {BODY} <RefSeg>[SEG]</RefSeg></select> bye", LOOK, LOOK),
        (f"<think><select>{BODY}</select></think>", None, None),  # only thought of
        (f"<select>{BODY.replace('5', '5.9')}</select>", LOOK, LOOK),
        (f"<select>{BODY.replace('8', '99')}</select>", Look(3, 12, 5), Look(3, 12, 5)),
        (f"<select>{BODY.replace('3', '-3')}</select>", Look(0, 9, 5), Look(0, 9, 5)),
        (f"<select>{BODY.replace('8', '3')}</select>", Look(3, 4, 5), Look(3, 4, 5)),
        (f"<select>{BODY.replace('8', '2')}</select>", None, None),
        (f"<select>{BODY.replace('3', '12')}</select>", None, None),
        (f"<select>{BODY.replace('5', '99')}</select>", Look(3, 9, 11), Look(3, 9, 11)),
        (f"<select>{BODY.replace('5', '1e999')}</select>", None, None),
        (f"<select>{BODY.replace('5', 'NaN')}</select>", None, None),
        (f"<select>{BODY.replace('5', 'true')}</select>", None, None),
        (f"<select>{BODY.replace('5', '9' * 400)}</select>", Look(3, 9, 11), Look(3, 9, 11)),
        (f"<select>{BODY.replace('5', '9' * 5000)}</select>", None, None),
        (f"<select>{BODY.replace('5', chr(34) + '5' + chr(34))}</select>", None, None),
        (f"<select>{BODY.replace(chr(34), chr(39))}</select>", None, None),  # strict JSON, as released
        ("<select>" + BODY[5:-6] + "</select>", None, LOOK),
        (f"<select>frames 3 to 8 {BODY[5:-6]}</select>", None, LOOK),
        ("<select><VTG>[3, 8, 5]</VTG></select>", None, None),
        ("<select><VTG></VTG></select>", None, None),
        ("<select></select>", None, None),
        (f"<select>{BODY}", None, None),
        (BODY, None, None),
    ],
)
def test_a_select_is_read(text, strict, bare):
    assert read_turn(text, T).select == strict and read_turn(text, T).answer is None
    assert read_turn(text, T, bare_json=True).select == bare
    assert read_turn(text.replace("select>", "answer>"), T).answer == strict


def test_select_wins_while_a_round_is_left():
    both = f"{ANSWER}{SELECT.partition('</think>')[2]}"
    assert read_turn(both, T).select == Look(2, 10, 5) and read_turn(both, T).answer == Look(4, 9, 7)
    episode, *_ = play(both, both, both)
    assert len(episode.turns) == 3
    assert score(both, both, both, rewards="as_intended").parts["tiou"] == 1  # the answer, in the last one


def test_rewards_of_the_release_read_the_last_block_with_an_exclusive_end():
    two = f'{BODY}<VTG>{{"start": 1, "end": 4, "keyframe": 2}}</VTG>'
    assert read_last(two, T) == ((1, 4), 2)
    assert read_last(two.replace('"', "'"), T) == ((1, 4), 2)
    assert read_last(BODY.replace("8", "99").replace("3", "-1"), T) == ((0, 12), 5)
    assert read_last(BODY.replace("5", "12"), T) == ((3, 8), -1)
    for text in ("", "<VTG>", "</VTG>", "</VTG><VTG>", "<VTG>{}</VTG>", '<VTG>{"start": 1, "end": 2}</VTG>'):
        assert read_last(text, T) == ((0, 0), -1)


@pytest.mark.parametrize(
    "text, kept",
    [
        (SELECT, True),
        (ANSWER, True),
        (ANSWER.replace("<think>", ""), False),
        (ANSWER.replace("</think>", ""), False),
        (ANSWER.replace("[SEG]", ""), False),
        (ANSWER.replace("RefSeg", "RefVOS"), False),
        (ANSWER.replace('"', "'"), False),
        (ANSWER.replace("keyframe", "key"), False),
        (ANSWER.replace("answer>", "result>"), False),
        (ANSWER.replace("VTG>", "vtg>"), False),
        (say("answer", 9, 2, 99), True),  # the form alone
    ],
)
def test_form(text, kept):
    assert keeps_form(text) is kept


def test_named_steps():
    assert named_steps(ANSWER) == 4 and named_steps(ANSWER.upper().replace("THINK", "think")) == 4
    assert named_steps(ANSWER.replace("Step 2", "Then")) == 3
    assert named_steps(STEPS) == 0


@st.composite
def damaged(draw, text: str) -> str:
    """`text` with pieces cut out, doubled or replaced."""
    pieces = [
        "",
        "[",
        "}",
        "\\",
        "9" * 500,
        "-1e999",
        "NaN",
        "null",
        "\ud800",
        "</VTG>",
        "<select>",
        "[SEG]",
        "</think>",
    ]
    for _ in range(draw(st.integers(0, 4))):
        start, stop = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        piece = draw(st.sampled_from([*pieces, text[start:stop] * 2]))
        text = text[:start] + piece + text[stop:]
    return text


SAID = st.one_of(st.text(), *(damaged(text) for text in (SELECT, ANSWER, SELECT_2)))


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.tuples(SAID, SAID, SAID),
    st.sampled_from(["as_released", "as_intended"]),
    st.sampled_from(["as_released", "own"]),
    st.booleans(),
    st.sampled_from([sample(), sample(seen=()), sample(targets=())]),
)
def test_no_completion_raises(texts, rewards, rule, bare, of):
    episode, script, system = play(*texts, of=of, rewards=rewards, keyframe_rule=rule, bare_json=bare)
    masks = [[square(10)] * len(episode.answer.segs)]
    (reward,) = system.score(of, [episode], masks)
    assert all(math.isfinite(x) for x in (reward.total, *reward.parts.values())) and -5.5 <= reward.total <= 8
    assert episode.end in (End.DONE, End.UNREADABLE, End.TRUNCATED)
    assert all(0 <= seg.frame < T and seg.turn < len(episode.turns) for seg in episode.answer.segs)
    if episode.end is End.DONE:
        assert any(seg.role == "final" for seg in episode.answer.segs)
    json.dumps(episode.answer.facts, allow_nan=False)
    assert all(view.frame in range(T) for content in script.asked for view in content if isinstance(view, View))


# --- scoring


@pytest.mark.parametrize(
    "texts, released, intended",
    [  # format, steps, span, keyframe, tiou; the target is seen in [4, 9)
        ((ANSWER,), (1, 1, 0.5, 1, 0.8), (1, 1, 0.5, 1, 1)),
        ((say("answer", 5, 6, 5),), (1, 1, 0.5, 1, 0.2), (1, 1, -0.5, 1, 0.4)),  # one frame is precise
        ((say("answer", 6, 6, 6),), (1, 1, -0.5, 1, 0), (1, 1, -0.5, 1, 0.2)),
        ((say("answer", 2, 8, 3),), (1, 1, 0.5 * 4 / 6, -1, 4 / 7), (1, 1, 0.5 * 5 / 7, -1, 5 / 7)),
        ((say("answer", 0, 11, 99),), (1, 1, -0.5, -1, 5 / 11), (1, 1, -0.5, -1, 5 / 12)),
        ((SELECT, ANSWER), (1, 1, 0.5, 1, 0.8), (1, 1, 0.5, 1, 1)),
        ((SELECT, SELECT, say("select", 4, 8, 7)), (1, 1, 0.5, 1, 0.8), (-1, 1, 0.5, 1, 1)),  # no answer at the end
        ((SELECT, "sorry"), (-1, 0.5, -0.5, -1, 0), (-1, 0.5, -0.5, -1, 0)),
        ((ANSWER.replace("Step 1", "First"),), (1, 0.75, 0.5, 1, 0.8), (1, 0.75, 0.5, 1, 1)),
        ((ANSWER.replace('"', "'"),), (-1, 1, 0.5, 1, 0.8), (-1, 1, -0.5, -1, 0)),
        ((ANSWER + "...",), (-1, 0, -0.5, -1, 0), (-1, 0, -0.5, -1, 0)),
        (("",), (-1, 0, -0.5, -1, 0), (-1, 0, -0.5, -1, 0)),
    ],
)
def test_parts_by_hand(texts, released, intended):
    for mode, parts in (("as_released", released), ("as_intended", intended)):
        reward = score(*texts, rewards=mode)
        names = ["format", "steps", "span", "keyframe", "tiou"]
        assert [reward.parts[name] for name in names] == pytest.approx(parts) and len(reward.parts) == 5
        assert reward.total == pytest.approx(sum(parts[:4]))  # the tIoU is told, not paid
        dearer = score(*texts, rewards=mode, weights=UNPAID | {"format": 10, "tiou": 100})
        assert dearer.total == pytest.approx(sum(parts[:4]) + 9 * parts[0] + 100 * parts[4])


def test_rewards_of_masks_by_hand():
    """On keyframes IoU .5 in turn 1 and 1 in turn 2; on frames 0 and 11, where the target is not, empty masks."""

    def draw(seg: SegPrompt):
        if seg.role == "final":
            return None
        return square(10 if seg.turn == 0 else 20) if seg.role == "keyframe" else np.zeros((HEIGHT, WIDTH), bool)

    for mode, gain, progress in (("as_released", 0, 0.5), ("as_intended", 0, 2)):
        parts = score(SELECT, ANSWER, draw=draw, rewards=mode).parts
        assert (parts["mask"], parts["keyframe_gain"], parts["progress"]) == pytest.approx((1.5, gain, progress))
    wrong = score(SELECT, ANSWER, draw=lambda seg: square(20), rewards="as_intended").parts
    assert (wrong["mask"], wrong["keyframe_gain"], wrong["progress"]) == pytest.approx((-1, 2, 0))
    wrong = score(SELECT, ANSWER, draw=lambda seg: square(20), rewards="as_released").parts
    assert (wrong["mask"], wrong["keyframe_gain"], wrong["progress"]) == pytest.approx((-1, 0.5, 0))
    absent = score(SELECT, ANSWER, draw=lambda seg: None).parts
    assert (absent["mask"], absent["keyframe_gain"], absent["progress"]) == (-1, 0, 0)
    unsaid = score(SELECT, "no", draw=lambda seg: square(20)).parts  # without [SEG]
    assert (unsaid["mask"], unsaid["keyframe_gain"], unsaid["progress"]) == (-1, 0, -1)


def test_empty_masks_on_a_keyframe_without_the_target():
    empty = np.zeros((HEIGHT, WIDTH), bool)
    for mode, gain in (("as_released", -1), ("as_intended", 0)):
        parts = score(say("select", 0, 3, 1), ANSWER, draw=lambda seg: empty, rewards=mode).parts
        assert (parts["mask"], parts["keyframe_gain"]) == (1.5, gain)


def test_the_mean_of_several_segs_counts_on_the_video_and_the_last_on_the_keyframe():
    texts = (SELECT, ANSWER.replace("[SEG]", "[SEG] [SEG]"))
    seen = sample(seen=range(T))
    halves = score(*texts, of=seen, draw=lambda seg: square(20) if seg.position == 3 else square(0)).parts
    assert halves["mask"] == pytest.approx(0.3) and halves["progress"] == 0.5  # IoU .5; from 0 to 1


def test_masks_of_another_size_than_the_video():
    small = square()[::2, ::2]
    seen = sample(seen=range(T))
    assert score(ANSWER, of=seen, draw=lambda seg: small).parts["mask"] == pytest.approx(1.5)


def test_a_group_is_scored_as_its_episodes_are():
    dialogues = [
        (SELECT, SELECT_2, ANSWER),
        (ANSWER,),
        (SELECT, "no"),
        (SELECT, ANSWER.replace("[SEG]", "[SEG] [SEG]")),
    ]
    rng, seen = np.random.default_rng(0), sample(seen=range(2, T))
    for mode in ("as_released", "as_intended"):
        played = [play(*texts, of=seen, rewards=mode) for texts in dialogues]
        episodes, system = [episode for episode, *_ in played], played[0][2]
        masks = [[square(int(rng.integers(0, 41))) for _ in e.answer.segs] for e in episodes]
        together = system.score(seen, episodes, masks)
        assert together == [system.score(seen, [e], [m])[0] for e, m in zip(episodes, masks, strict=True)]
        assert len({reward.total for reward in together}) == 4


def plain_span_reward(text: str) -> float:
    """The released `lr_vtg_iou_dense`, for text alone."""
    found = re.findall(r"<VTG>(.*?)</VTG>", text, re.DOTALL)
    try:
        said = ast.literal_eval(found[-1])
        start, end = (max(0, min(T, int(said[key]))) for key in ("start", "end"))
        said["keyframe"]
    except (IndexError, ValueError, SyntaxError, KeyError, TypeError):
        return -0.5
    if start >= end:
        return -0.5
    share = sum(f in SEEN for f in range(start, end)) / (end - start)
    return 0.5 * share if share >= 0.5 else -0.5


def test_the_span_reward_is_that_of_the_release():
    rng, earned = np.random.default_rng(0), set()
    for _ in range(300):
        start, end, keyframe = (int(x) for x in rng.integers(-2, T + 3, 3))
        text = say("answer", start, end, keyframe).replace('"', rng.choice(['"', "'", ""], p=[0.8, 0.1, 0.1]))
        earned.add(got := score(text).parts["span"])
        assert got == pytest.approx(plain_span_reward(text)), text
    assert len(earned) > 8


def test_masks_that_are_paid_for_must_be_there():
    episode, _, system = play(ANSWER, weights={"progress": 0})
    with pytest.raises(ValueError, match="mask, keyframe_gain need masks, and there are none: .*weights 0"):
        system.score(sample(), [episode])
    assert system.masks_by == "policy" and VideoSegO3.make({"weights": UNPAID}).masks_by == ""


# --- demonstrating


@pytest.mark.parametrize("prompt", ["short", "full"])
def test_a_demonstration_earns_what_can_be_earned(prompt):
    system = VideoSegO3.make(TINY | {"prompt": prompt, "rewards": "as_intended", "keyframe_rule": "own"})
    turns = set()
    for seed in range(12):
        dialogue = system.demonstrate(sample(), np.random.default_rng(seed))
        script = Script(*(text for _, text in dialogue))
        episode = asyncio.run(system.play(sample(), script))
        assert script.asked == [content for content, _ in dialogue] and episode.end is End.DONE
        masks = [square() if seg.frame in SEEN else square(0) for seg in episode.answer.segs]
        (reward,) = system.score(sample(), [episode], [masks])
        assert [reward.parts[name] for name in ("format", "steps", "span", "keyframe", "mask", "tiou")] == [
            1, 1, 0.5, 1, 1.5, 1,
        ]  # fmt: skip
        turns.add(len(dialogue))
        looks = episode.answer.facts["rounds"]
        for wide, narrow in zip(looks, looks[1:], strict=False):
            assert wide["start"] <= narrow["start"] and narrow["stop"] <= wide["stop"]
    assert turns == {1, 2, 3}


def test_a_demonstration_uses_the_notes():
    noted = sample(notes={"thought": "it barks", "names": ["red dog"]})
    text = VideoSegO3.make(TINY).demonstrate(noted, np.random.default_rng(0))[-1][1]
    assert "Step 2: red dog." in text and "Step 3: it barks." in text and write_look(Look(4, 9, 5))[:26] in text


def test_a_dialogue_of_the_data_is_shown_as_it_is():
    said = [SELECT, "<answer>[SEG]</answer>"]
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}, {"from": "gpt", "value": said[0]},
             {"from": "human", "value": "<image>"}, {"from": "gpt", "value": said[1]}]  # fmt: skip
    of = sample(notes={"conversations": turns, "sample_frame_indice": [1, 4, 4]})
    system = VideoSegO3.make(TINY | {"budget": "cold_start"})
    dialogue = system.demonstrate(of, np.random.default_rng(0))
    assert [text for _, text in dialogue] == said
    views = [x.frame for x in dialogue[0][0] if isinstance(x, View)]
    assert views == [0, 3, 7, 11, 1, 4]
    assert dialogue[1][0] == system.ask_more(of, Look(2, 10, 5), last=False)


@pytest.mark.parametrize(
    "said, message",
    [
        ([SELECT] * 4, "4 turns; max_turns is 3"),
        ([], "0 turns"),
        (["hm", ANSWER], "turn 1 selects nothing readable: 'hm'"),
    ],
)
def test_a_dialogue_that_cannot_be_played(said, message):
    of = sample(notes={"conversations": [{"from": "gpt", "value": text} for text in said]})
    with pytest.raises(ValueError, match=message):
        VideoSegO3.make(TINY).demonstrate(of, np.random.default_rng(0))


def test_nothing_to_demonstrate():
    with pytest.raises(ValueError, match="nothing to find in any of 12 frames"):
        VideoSegO3.make(TINY).demonstrate(sample(targets=()), np.random.default_rng(0))


# --- options


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budgets": "rl"}, "budgets is unknown; did you mean 'budget'"),
        ({"budget": "train"}, "expected one of 'rl', 'evaluation', 'cold_start'"),
        ({"max_turns": 0}, "max_turns = 0: must be at least 1"),
        ({"temporal_frames": -1}, "must be at least 0"),
        ({"key_pixels": 700}, "key_pixels = 700: an image has at least 784 pixels"),
        ({"weights": {"masks": 1.0}}, "weights.masks is unknown; did you mean 'mask'"),
        ({"rewards": "released"}, "'as_released', 'as_intended'"),
        ({"keyframe_rule": "answer"}, "'as_released', 'own'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSegO3.make(TINY | options)


@pytest.mark.parametrize("preset", ["videoseg_o3_2b", "videoseg_o3_4b"])
def test_presets_have_the_released_numbers(preset):
    cfg = load([preset])
    options = systems.make(cfg.system.name, cfg.system.options).options
    assert options.frames == BUDGETS["rl"] and (options.max_turns, options.rewards) == (3, "as_released")
    assert options.all_weights == WEIGHTS and sum(WEIGHTS.values()) == 7
    assert (cfg.rollout.prompts_per_step, cfg.rollout.group_size, cfg.train.steps) == (16, 4, 1000)
    assert (cfg.rollout.temperature, cfg.rollout.top_p) == (0.9, 0.9)
    learner, grpo = cfg.learner, cfg.grpo
    assert (learner.lr, learner.weight_decay, learner.schedule, learner.grad_clip) == (3e-6, 0, "linear", 1)
    assert (grpo.kl_coef, grpo.kl_estimator, grpo.advantage_eps, grpo.aggregation) == (
        0.04,
        "k3",
        1e-4,
        "sequence_mean",
    )
    assert preset[-2:].upper() in cfg.policy.path


def test_evaluation_has_its_own_budget():
    cfg = load(["videoseg_o3_2b", "system.options.budget=evaluation"])
    frames = systems.make(cfg.system.name, cfg.system.options).options.frames
    assert (frames.temporal_frames, frames.spatial_frames, frames.max_tokens) == (20, 8, 1024)
