"""The batched forward against Hugging Face's, on pretraining's lessons, for both families."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tiny.school.batched_qwen3 import batched_policy
from tiny.school.build import build
from tiny.school.facts import Heads
from tiny.school.lessons import Teacher, fill_lesson
from tiny.school.losses import Tutor
from tiny.school.script import arrays, num_bytes
from tiny.school.search_lessons import SearchTeacher
from tiny.school.search_losses import SearchTutor
from tiny.school.sizes import SIZES
from tiny.world.queries import sentences


@dataclass
class School:
    """A random policy and who teaches it."""

    processor: Any
    folder: Path
    teacher: Teacher

    @property
    def search(self) -> bool:
        return isinstance(self.teacher, SearchTeacher)

    def tutor(self, **kwargs: str) -> tuple[Any, Tutor]:
        hf = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32, **kwargs)
        made = SearchTutor if self.search else Tutor
        return hf, made(
            batched_policy(hf), Heads(128, self.search), self.teacher, torch.device("cpu")
        )

    def lessons(self, count: int) -> dict[str, np.ndarray]:
        found = arrays(bytearray(num_bytes(self.teacher.layout, count)), self.teacher.layout, count)
        for row in range(count):
            fill_lesson(found, row, np.random.default_rng(5 + row), self.teacher)
        return found


@pytest.fixture(scope="module", params=list(SIZES))
def school(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> School:
    folder = tmp_path_factory.mktemp("tiny") / "policy"
    build(folder, sentences(), sizes=SIZES[request.param])
    processor = AutoProcessor.from_pretrained(folder)
    made = SearchTeacher if request.param == "qwen3_vl" else Teacher
    return School(processor, folder, made(processor.tokenizer))


def test_equals_the_hugging_face_forward(school: School) -> None:
    hf, tutor = school.tutor()
    with torch.no_grad():  # at their initial size the weights would hide differences
        for parameter in hf.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    teacher = school.teacher
    net = tutor.net
    lesson = tensors(school.lessons(1))
    with torch.no_grad():
        images, prefix = tutor.prefix(lesson["small"])
        hidden, cache, _ = net.read(prefix, tutor.prefix_positions[None])
        rows = len(lesson["keys"][0])
        ids = lesson["ids"][0, :rows]
        keys = net.see(lesson["keys"][0])
        x = net.embed(ids, tutor.row_images(images, keys, lesson).flatten(0, 1))
        positions = lesson["positions"][0, :rows]
        ours = net.logits(net.read(x, positions, past=cache)[0])
        for i in range(rows):
            used = int((ids[i] != 0).nonzero()[-1]) + 1
            whole = [*teacher.prefix.ids, *ids[i, :used].tolist()]
            theirs = hf(**inputs(school, whole, lesson, i)).logits[0]
            begin = len(teacher.prefix.ids)
            assert theirs.std() > 0.5
            torch.testing.assert_close(net.logits(hidden[0]), theirs[:begin], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours[i, :used], theirs[begin:], atol=1e-4, rtol=1e-4)


def test_scores_are_those_of_the_attention(school: School) -> None:
    hf, tutor = school.tutor(attn_implementation="eager")
    index = 2
    head = 3
    net = tutor.net
    lesson = tensors(school.lessons(1))
    with torch.no_grad():
        for parameter in hf.model.language_model.layers[index].self_attn.parameters():
            parameter.mul_(8)
        _, prefix = tutor.prefix(lesson["small"])
        positions = tutor.prefix_positions
        _, cache, before = net.read(prefix, positions[None], tap=index - 1)
        assert before is not None
        keys = cache[index][0][0, head].expand(len(positions), -1, -1)
        scores = net.scores(before[0], positions, keys, index, head)
        whole = [*school.teacher.prefix.ids, *lesson["ids"][0, 0].tolist()]
        theirs = hf(**inputs(school, whole, lesson, 0), output_attentions=True).attentions[index]
    n = len(positions)
    causal = torch.ones(n, n).tril().bool()
    ours = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    assert ours.max(-1).values[n // 2 :].mean() > 2 / n  # not nearly uniform
    torch.testing.assert_close(ours, theirs[0, head, :n, :n], atol=1e-4, rtol=1e-4)


def tensors(lessons: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in lessons.items()}


def inputs(
    school: School, ids: list[int], lesson: dict[str, torch.Tensor], i: int
) -> dict[str, torch.Tensor]:
    """Inputs of transformers for dialogue `i` of the only lesson, patches by its processor."""
    small = lesson["small"][0].numpy()
    part = small[lesson["part"][0, i]] if school.search else []
    prefix = small[list(school.teacher.shown)]
    shown = [*prefix, *part, lesson["keys"][0, i].numpy()]
    images = school.processor.image_processor(images=shown, return_tensors="pt")
    grids = [[1, 6, 6]] * (len(shown) - 1) + [[1, 8, 8]]
    assert images["image_grid_thw"].tolist() == grids
    ids_1T = torch.tensor([ids])
    return {
        "input_ids": ids_1T,
        "attention_mask": torch.ones_like(ids_1T),
        "mm_token_type_ids": (ids_1T == school.teacher.image_id).int(),
        **images,
    }


def test_losses_are_finite_reach_every_parameter_and_fall(school: School) -> None:
    hf, tutor = school.tutor()
    lesson = tensors(school.lessons(2))
    parameters = dict([*hf.named_parameters(), *tutor.heads.named_parameters()])
    optimizer = torch.optim.AdamW(parameters.values(), lr=5e-4)
    losses = []
    for _ in range(6):
        parts = tutor.losses(lesson, dialogues=True)
        assert all(torch.isfinite(part) for part in parts.values())
        counted = [part for name, part in parts.items() if name[0] != "_"]
        losses.append(torch.stack(counted).sum())
        optimizer.zero_grad(set_to_none=True)
        losses[-1].backward()
        assert [name for name, p in parameters.items() if p.grad is None] == []
        optimizer.step()
    numbers = [loss.item() for loss in losses]
    assert losses[1] < losses[0], numbers
    assert losses[-1] < 0.9 * losses[0], numbers
