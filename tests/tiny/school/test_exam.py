"""The examination reads the answers of the lessons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from tiny.school.build import build
from tiny.school.exam import FIRST, SECOND, questions
from tiny.school.lessons import Teacher
from tiny.world.queries import sentences


def test_ideal_answers_are_read(tmp_path: Path) -> None:
    build(tmp_path, sentences())
    teacher = Teacher(AutoTokenizer.from_pretrained(tmp_path))
    asked = questions(3, 12)
    for question in asked:
        frame = int(question.temporal_F.argmax())
        script, place = teacher.two_turns(
            question.query, question.name, frame, question.box_F4[frame]
        )
        opening = len(teacher.ask(question.query.text).ids)
        first_end = script.ids.index(teacher.end, opening)
        first = FIRST.fullmatch(teacher.dialogue.decode(script.ids[opening:first_end]))
        assert first
        assert (int(first[1]), first[2]) == (frame, question.name)
        assert script.ids[place] == teacher.numbers[frame]
        answer = teacher.dialogue.decode(script.ids[:-1])
        second = SECOND.search(answer, answer.index("Locate"))
        assert second
        box = [int(second[i]) for i in range(1, 5)]
        assert np.array_equal(box, question.box_F4[frame])
        assert question.temporal_F.max() == 1
        assert question.temporal_F.min() == 0
