"""New tokens shorten an answer, keep every text, and start as the mean of their spelling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tiny.school.extend import OBJECT_PIECES, extend

SOURCE = Path(__file__).parents[3] / "tiny" / "weights" / "revseg"
ANSWER = (
    '<think>the red circle</think><answer>[{"bbox_2d":[12,30,50,70],"point_2d":[30,50],'
    '"neg_point_2d":[55,50]},'
    '{"bbox_2d":[1,2,3,4],"point_2d":[3,4],"neg_point_2d":[3,9]}]</answer>'
)


@pytest.mark.parametrize("pieces", [OBJECT_PIECES, tuple(f"<piece {i}>" for i in range(40))])
def test_tokens_are_added_and_nothing_else_changes(tmp_path: Path, pieces: tuple[str, ...]) -> None:
    out = tmp_path / "policy"
    assert extend(SOURCE, out, pieces) == len(pieces)
    before = AutoTokenizer.from_pretrained(SOURCE)
    after = AutoTokenizer.from_pretrained(out)
    old, new = (
        AutoModelForImageTextToText.from_pretrained(f, dtype=torch.float32) for f in (SOURCE, out)
    )
    size = new.config.text_config.vocab_size
    assert len(after) == len(before) + len(pieces) <= size
    assert size % 32 == 0
    old_rows = old.get_input_embeddings().weight
    new_rows = new.get_input_embeddings().weight
    assert len(new_rows) == len(new.lm_head.weight) == size
    assert torch.equal(new_rows[: len(before)], old_rows[: len(before)])
    for piece in pieces:
        spelled = before(piece, add_special_tokens=False)["input_ids"]
        mean = old_rows[spelled].mean(0)
        assert after(piece, add_special_tokens=False)["input_ids"] == [
            after.convert_tokens_to_ids(piece)
        ]
        torch.testing.assert_close(
            new_rows[after.convert_tokens_to_ids(piece)], mean, atol=0.01, rtol=0.01
        )
    for text in (ANSWER, "Locate the red circle.", *pieces):
        assert after.decode(after(text, add_special_tokens=False)["input_ids"]) == text
    assert (
        after("Locate the red circle.")["input_ids"]
        == before("Locate the red circle.")["input_ids"]
    )


def test_an_answer_gets_short(tmp_path: Path) -> None:
    extend(SOURCE, tmp_path / "policy")
    before, after = (
        len(AutoTokenizer.from_pretrained(f)(ANSWER)["input_ids"])
        for f in (SOURCE, tmp_path / "policy")
    )
    assert before > 100
    assert after <= 42
    with pytest.raises(ValueError, match="exists already"):
        extend(SOURCE, tmp_path / "policy")
