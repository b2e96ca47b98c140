"""The examination of searches, taken by the shipped policy, and by one that knows nothing."""

from __future__ import annotations

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from configs.load import REPOSITORY
from tiny.school.batched_qwen3 import batched_policy
from tiny.school.exam import questions
from tiny.school.facts import Heads
from tiny.school.search_exam import FIGURES, examine
from tiny.school.search_lessons import SearchTeacher
from tiny.school.search_losses import SearchTutor

SHIPPED = REPOSITORY / "tiny" / "weights" / "videoseg_o3"


def marks(scramble: bool) -> dict[str, dict[str, float]]:
    hf = AutoModelForImageTextToText.from_pretrained(SHIPPED, dtype=torch.float32)
    if scramble:
        torch.manual_seed(0)
        with torch.no_grad():
            hf.lm_head.weight.copy_(hf.lm_head.weight[torch.randperm(len(hf.lm_head.weight))])
    teacher = SearchTeacher(AutoTokenizer.from_pretrained(SHIPPED))
    heads = Heads(
        hf.config.text_config.hidden_size, search=True
    )  # the box that they read is not looked at here
    tutor = SearchTutor(batched_policy(hf), heads, teacher, torch.device("cpu"))
    return examine(tutor, teacher, questions(11, 16), temperature=0.0)


def test_the_shipped_policy_passes() -> None:
    found = marks(scramble=False)
    assert found["all"]["count"] == 16
    assert set(found["all"]) == {*FIGURES, "count"}
    assert found["all"]["format"] >= 0.9
    assert found["all"]["visible"] >= 0.6
    assert found["all"]["tiou"] >= 0.5
    assert 1 < found["all"]["turns"] <= 2


def test_who_knows_nothing_does_not() -> None:
    found = marks(scramble=True)
    assert found["all"]["format"] == 0.0
    assert found["all"]["turns"] == 1.0
