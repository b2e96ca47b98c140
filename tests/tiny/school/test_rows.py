"""A row of several dialogues equals the dialogues one by one; the speaker is greedy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from core.batch import mrope_positions
from core.types import View
from models.dialogue import Dialogue, load_dialogue
from tiny.school.batched import Batched
from tiny.school.build import build
from tiny.school.rows import OneTurn, common_length, pack
from tiny.school.speaker import Speaker
from tiny.world.queries import sentences

VIEWS = [View(0, 56, 84), View(1, 112, 112)]
GRIDS = [(2, 3), (4, 4)]
ASKED = (
    (" Find the red circle.", "<think>it</think>"),
    (" Find all squares.", "<answer>[1,2]</answer>"),
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Batched, Dialogue]:
    folder: Path = tmp_path_factory.mktemp("rows") / "policy"
    build(folder, sentences())
    hf = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():  # at their initial size the weights would hide differences
        for parameter in hf.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    return Batched(hf), load_dialogue(folder)


def pixels(view: View) -> np.ndarray:
    return np.random.default_rng(view.frame).integers(
        0, 255, (view.height, view.width, 3), dtype=np.uint8
    )


def dialogues(dialogue: Dialogue) -> list[OneTurn]:
    made = []
    for text, answer in ASKED:
        content: list[str | View] = ["0", VIEWS[0], "1", VIEWS[1], text]
        prompt = dialogue.user(content, first=True, expanded=True)
        ids = dialogue.completion(answer)
        weights = [1.0] * len(ids)
        made.append(OneTurn(prompt, ids, weights, list(range(len(ids)))))
    return made


@torch.no_grad()
def test_a_row_equals_its_dialogues(policy: tuple[Batched, Dialogue]) -> None:
    net, dialogue = policy

    # `see` takes square images only: the other one is made of zeros by both ways.
    square = net.see(torch.from_numpy(pixels(VIEWS[1]))[None])[0]
    images = torch.cat([torch.zeros(6, 128), square])
    made = dialogues(dialogue)
    one = made[0]
    weights = one.weights[:2]
    short = [OneTurn(one.prompt_ids, one.answer_ids[:2], weights, one.values[:2])]
    rows = pack([(made, GRIDS), (short, GRIDS)], dialogue.image_id)
    x = net.embed(rows.ids_BT, torch.cat([images, images]))
    ours = net.logits(net.read(x, rows.positions_BT3, seen_BTT=rows.seen())[0])
    assert rows.ids_BT.shape[1] % 16 == 0
    assert rows.branch_BT.max(1).values.tolist() == [2, 1]
    for b, group in enumerate((made, short)):
        for k, one in enumerate(group):
            whole = [*one.prompt_ids, *one.answer_ids]
            positions = torch.from_numpy(mrope_positions(whole, GRIDS, dialogue.image_id).T.copy())[
                None
            ]
            x_alone = net.embed(torch.tensor([whole]), images)
            alone = net.logits(net.read(x_alone, positions)[0])[0]
            in_branch = rows.branch_BT[b] == k + 1
            at = torch.nonzero((rows.weight_BT[b] > 0) & in_branch)[:, 0]
            assert rows.ids_BT[b, at].tolist() == list(one.answer_ids)
            assert rows.value_BT[b, at].tolist() == list(one.values)
            theirs = alone[len(one.prompt_ids) - 1 : -1]
            assert theirs.std() > 0.5
            torch.testing.assert_close(ours[b, at - 1], theirs, atol=1e-4, rtol=1e-4)


def test_what_prompts_share_leaves_a_token_to_each() -> None:
    assert common_length([[1, 2, 3], [1, 2, 4]]) == 2
    assert common_length([[1, 2, 3]]) == 2
    assert common_length([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert common_length([[5, 2], [1, 2]]) == 0


@torch.no_grad()
def test_it_speaks_as_hugging_face_generates(policy: tuple[Batched, Dialogue]) -> None:
    net, dialogue = policy
    content: list[str | View] = ["1", VIEWS[1], ASKED[0][0]]
    turn = asyncio.run(Speaker(net, dialogue, pixels)(content, max_tokens=6))
    assert list(turn.prompt_ids) == dialogue.user(content, first=True, expanded=True)
    ids = list(turn.prompt_ids)
    banned = torch.ones(len(net.hf.lm_head.weight), dtype=torch.bool)
    banned[dialogue.allowed_ids()] = False
    image = net.see(torch.from_numpy(pixels(VIEWS[1]))[None])[0]
    for token in turn.completion_ids:  # each one greedy, from the whole text before it
        positions = torch.from_numpy(mrope_positions(ids, GRIDS[1:], dialogue.image_id).T.copy())[
            None
        ]
        x = net.embed(torch.tensor([ids]), image)
        logits = net.logits(net.read(x, positions)[0][0, -1])
        assert int(logits.masked_fill(banned, -torch.inf).argmax()) == token
        ids.append(token)
    assert turn.complete == (turn.completion_ids[-1] == dialogue.end_id)
    assert 0 < len(turn.completion_ids) <= 6
    # With a small top_p only the likeliest token is left.
    speaker = Speaker(net, dialogue, pixels)
    auxiliary = speaker.auxiliary(content, max_tokens=3, temperature=0.7, top_p=1e-9)
    assert asyncio.run(auxiliary).completion_ids == turn.completion_ids[:3]
