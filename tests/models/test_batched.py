"""The batched forward against Hugging Face's, on whole lessons as pretraining builds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data.synthetic.queries import sentences
from models.tiny.batched import Batched
from models.tiny.build import build
from models.tiny.lessons import QUERIES, Teacher, arrays, chunk_bytes, fill
from models.tiny.losses import Heads, Tutor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "policy"
    build(out, sentences())
    return out


def test_equals_the_hugging_face_forward(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    hf = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():  # at their initial size the weights would hide differences
        for parameter in hf.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    teacher, net = Teacher(processor.tokenizer), Batched(hf)
    lesson = arrays(bytearray(chunk_bytes(1)), 1)
    fill(lesson, 0, np.random.default_rng(5), teacher)
    tutor = Tutor(net, Heads(128), teacher, torch.device("cpu"))
    with torch.no_grad():
        _, prefix = tutor.prefix(torch.from_numpy(lesson["small"]))
        hidden, cache, _ = net.read(prefix, tutor.prefix_positions[None])
        ids = torch.from_numpy(lesson["ids"][0])
        keys = net.see(torch.from_numpy(lesson["keys"][0]))
        x = net.embed(ids, keys.flatten(0, 1))
        ours = net.logits(net.read(x, torch.from_numpy(lesson["positions"][0]), past=cache)[0])
        for i in range(QUERIES):
            used = int((lesson["ids"][0, i] != 0).nonzero()[0].max()) + 1
            whole = [*teacher.prefix.ids, *lesson["ids"][0, i, :used]]
            theirs = hf(**_inputs(processor, whole, lesson["small"][0], lesson["keys"][0, i])).logits[0]
            begin = len(teacher.prefix.ids)
            assert theirs.std() > 0.5
            torch.testing.assert_close(net.logits(hidden[0]), theirs[:begin], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours[i, :used], theirs[begin:], atol=1e-4, rtol=1e-4)


def _inputs(processor: object, ids: list[int], small_FHWC: np.ndarray, key_HWC: np.ndarray) -> dict[str, torch.Tensor]:
    images = processor.image_processor(images=[*small_FHWC, key_HWC], return_tensors="pt")  # type: ignore[attr-defined]
    assert images["image_grid_thw"].tolist() == [[1, 6, 6]] * 16 + [[1, 8, 8]]
    ids_1T = torch.tensor([ids])
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")  # type: ignore[attr-defined]
    return {
        "input_ids": ids_1T,
        "attention_mask": torch.ones_like(ids_1T),
        "mm_token_type_ids": (ids_1T == image_id).int(),
        **images,
    }


def test_losses_are_finite_and_reach_every_parameter(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    hf = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    teacher, heads = Teacher(processor.tokenizer), Heads(128)
    lessons = arrays(bytearray(chunk_bytes(2)), 2)
    for row in range(2):
        fill(lessons, row, np.random.default_rng(row), teacher)
    tutor = Tutor(Batched(hf), heads, teacher, torch.device("cpu"))
    parts = tutor.losses({name: torch.from_numpy(array) for name, array in lessons.items()}, dialogues=True)
    torch.stack([part for name, part in parts.items() if name[0] != "_"]).sum().backward()
    assert all(torch.isfinite(part) for part in parts.values())
    still = [name for name, p in [*hf.named_parameters(), *heads.named_parameters()] if p.grad is None]
    assert still == []
