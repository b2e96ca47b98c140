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


def test_scores_are_those_of_the_attention(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    hf = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    teacher, net, index, head = Teacher(processor.tokenizer), Batched(hf), 2, 3
    lesson = arrays(bytearray(chunk_bytes(1)), 1)
    fill(lesson, 0, np.random.default_rng(5), teacher)
    tutor = Tutor(net, Heads(128), teacher, torch.device("cpu"))
    with torch.no_grad():
        for parameter in hf.model.language_model.layers[index].self_attn.parameters():
            parameter.mul_(8)
        _, prefix = tutor.prefix(torch.from_numpy(lesson["small"]))
        positions = tutor.prefix_positions
        _, cache, before = net.read(prefix, positions[None], tap=index - 1)
        assert before is not None
        keys = cache[index][0][0, head].expand(len(positions), -1, -1)
        scores = net.scores(before[0], positions, keys, index, head)
        whole = [*teacher.prefix.ids, *lesson["ids"][0, 0]]
        inputs = _inputs(processor, whole, lesson["small"][0], lesson["keys"][0, 0])
        theirs = hf(**inputs, output_attentions=True).attentions[index]
    n = len(positions)
    causal = torch.ones(n, n).tril().bool()
    ours = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    assert ours.max(-1).values[n // 2 :].mean() > 2 / n  # not nearly uniform
    torch.testing.assert_close(ours, theirs[0, head, :n, :n], atol=1e-4, rtol=1e-4)


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
