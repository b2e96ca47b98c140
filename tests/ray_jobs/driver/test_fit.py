"""Samples without room for an answer are found by counting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.setup import make_system
from configs.load import load, resolve
from core.types import Sample
from models.dialogue import load_dialogue
from models.prompt_tokens import count_prompt, opening_questions
from ray_jobs.driver.fit import aside_line, too_long
from tests.systems.scripted import video

SHORT = Sample("v/0", video(24), "the one that wins", ())
LONG = replace(SHORT, uid="v/1", query="the one that wins " * 60)


@pytest.mark.parametrize("preset", ["revseg_tiny", "videoseg_r1_tiny", "veason_r1_tiny"])
def test_a_long_query_is_found_at_the_token_where_it_begins_to_fail(preset: str) -> None:
    cfg = load([preset])
    system = make_system(cfg)
    dialogue = load_dialogue(resolve(cfg.policy.path))
    found = too_long(dialogue, system, [SHORT, LONG], cfg.rollout.max_model_len)
    assert list(found) == ["v/1"]
    assert f"rollout.max_model_len={cfg.rollout.max_model_len}" in found["v/1"]

    # One token more than the prompt is enough: the first of an answer.
    needed = int(found["v/1"].split(" tokens")[0].split()[-1])
    assert too_long(dialogue, system, [LONG], needed)
    assert not too_long(dialogue, system, [LONG], needed + 1)


def test_the_count_is_the_prompt_of_the_engine() -> None:
    cfg = load(["revseg_tiny"])
    dialogue = load_dialogue(resolve(cfg.policy.path))
    system = make_system(cfg)
    [question, *_] = opening_questions(system, SHORT)
    tokens = count_prompt(dialogue, question.content).prompt
    reason = too_long(dialogue, system, [SHORT], tokens)["v/0"]
    assert reason.startswith(f"its prompt has {tokens} tokens")


def test_the_line_names_a_few() -> None:
    reasons = {f"v/{number}": f"reason {number}" for number in range(9)}
    line = aside_line(reasons, "of 20 training samples")
    assert line.startswith("set aside: 9 of 20 training samples: v/0, v/1, v/2, v/3, v/4, ...")
    assert line.endswith("reason 0")
