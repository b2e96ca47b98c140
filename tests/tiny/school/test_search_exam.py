"""The examination of searches, taken by the shipped policy and by one without knowledge."""

from __future__ import annotations

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from configs.load import REPOSITORY
from tiny.school.batched_qwen3 import batched_policy
from tiny.school.exam import Marks, questions
from tiny.school.facts import Heads
from tiny.school.search_exam import FIGURES, examine
from tiny.school.search_lessons import SearchTeacher
from tiny.school.search_losses import SearchTutor

SHIPPED = REPOSITORY / "tiny" / "weights" / "videoseg_o3"


def marks(scramble: bool) -> Marks:
    """Examine the shipped policy; `scramble` permutes the rows of its head."""
    hf = AutoModelForImageTextToText.from_pretrained(SHIPPED, dtype=torch.float32)
    if scramble:
        torch.manual_seed(0)
        rows = hf.lm_head.weight
        with torch.no_grad():
            rows.copy_(rows[torch.randperm(len(rows))])
    teacher = SearchTeacher(AutoTokenizer.from_pretrained(SHIPPED))
    # The boxes that these untrained heads read are not checked here.
    heads = Heads(hf.config.text_config.hidden_size, search=True)
    tutor = SearchTutor(batched_policy(hf), heads, teacher, torch.device("cpu"))
    return examine(tutor, teacher, questions(11, 16), temperature=0.0)


def test_the_shipped_policy_passes() -> None:
    found = marks(scramble=False)["all"]
    assert found["count"] == 16
    assert set(found) == {*FIGURES, "count"}
    assert found["format"] >= 0.9
    assert found["visible"] >= 0.6
    assert found["tiou"] >= 0.5
    assert 1 < found["turns"] <= 2


def test_a_policy_without_knowledge_fails() -> None:
    found = marks(scramble=True)["all"]
    assert found["format"] == 0.0
    assert found["turns"] == 1.0
