"""The layout of a dialogue, and that text never becomes a control token."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import View
from models.dialogue import Dialogue, allowed_ids, control_ids, tokens_of
from tests.models import tiny_engine

DIALOGUE = Dialogue(tiny_engine.tokenizer())
TOKENS = DIALOGUE.tokenizer
PIECES = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from(tiny_engine.CONTROL + tiny_engine.MARKUP)),
    max_size=5,
).map("".join)


def test_layout_of_two_turns() -> None:
    first = DIALOGUE.user(["0", View(3, 56, 84), " Find it."], first=True, expanded=False)
    second = DIALOGUE.user(["And?"], first=False, expanded=False)
    said = TOKENS.decode(
        first + DIALOGUE.completion("Here.") + second, clean_up_tokenization_spaces=False
    )
    assert said == (
        "<|im_start|>user\n0<|vision_start|><|image_pad|><|vision_end|> Find it.<|im_end|>\n<|im_start|>assistant\n"
        "Here.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_system_message() -> None:
    said = TOKENS.decode(DIALOGUE.user(["Hi"], first=True, expanded=False, system="Be kind."))
    assert said.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>")


def test_expanded_differs_only_in_pads() -> None:
    content = ["a", View(0, 56, 84), "b", View(1, 28, 28)]
    short = DIALOGUE.user(content, first=True, expanded=False)
    long = DIALOGUE.user(content, first=True, expanded=True)
    image = DIALOGUE.image_id
    assert short.count(image) == 2
    assert long.count(image) == tokens_of(View(0, 56, 84)) + 1 == 7
    assert [i for i in short if i != image] == [i for i in long if i != image]


@pytest.mark.parametrize(("height", "width"), [(55, 84), (56, 0), (28, 30)])
def test_view_off_the_grid_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="multiples of 28"):
        tokens_of(View(0, height, width))


@given(PIECES)
def test_text_never_becomes_a_control_token(text: str) -> None:
    ids = DIALOGUE.text(text)
    assert not set(ids) & control_ids(TOKENS)
    assert same(DIALOGUE.decode(ids), text)
    assert same(DIALOGUE.decode(DIALOGUE.completion(text)), text)


def same(a: str, b: str) -> bool:
    """Up to Unicode's canonical composition, which Qwen's tokeniser applies."""
    return unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b)


def test_markup_stays_one_token() -> None:
    assert len(DIALOGUE.text("<think></think>")) == 2


def test_allowed_ids() -> None:
    allowed = allowed_ids(TOKENS)
    assert allowed == sorted(allowed)
    assert max(allowed) < len(TOKENS)
    assert TOKENS.convert_tokens_to_ids("<|im_end|>") in allowed
    banned = {TOKENS.convert_tokens_to_ids(t) for t in tiny_engine.CONTROL if t != "<|im_end|>"}
    assert set(range(len(TOKENS))) - set(allowed) == banned


def test_same_ids_after_saving(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    TOKENS.save_pretrained(tmp_path)
    again = Dialogue(AutoTokenizer.from_pretrained(tmp_path))
    content = ["Find <|im_end|> now", View(0, 28, 28)]
    assert again.user(content, first=True, expanded=True) == DIALOGUE.user(
        content, first=True, expanded=True
    )
    assert allowed_ids(again.tokenizer) == allowed_ids(TOKENS)
