"""The layout of a dialogue, and that text never becomes a control token."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AddedToken, AutoTokenizer

from core.types import View
from models.dialogue import Dialogue, control_ids, joined
from models.families import Qwen2_5VL, Qwen3VL
from tests.models import tiny_engine

DIALOGUE = Dialogue(tiny_engine.tokenizer(), Qwen2_5VL())
TOKENIZER = DIALOGUE.tokenizer
SPECIAL = tiny_engine.CONTROL + tiny_engine.MARKUP
PIECE = st.one_of(st.text(max_size=8), st.sampled_from(SPECIAL))
TEXTS = st.lists(PIECE, max_size=5).map("".join)


def spelled(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, clean_up_tokenization_spaces=False)


def test_layout_of_two_turns() -> None:
    first = DIALOGUE.user(["0", View(3, 56, 84), " Find it."], first=True, expanded=False)
    answer = DIALOGUE.completion("Here.")
    second = DIALOGUE.user(["And?"], first=False, expanded=False)
    assert spelled(first + answer + second) == (
        "<|im_start|>user\n0<|vision_start|><|image_pad|><|vision_end|> Find it.<|im_end|>\n"
        "<|im_start|>assistant\n"
        "Here.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_system_message() -> None:
    """It opens a dialogue; later turns do not repeat it."""
    dialogue = Dialogue(TOKENIZER, Qwen2_5VL(), "Be kind.")
    first = spelled(dialogue.user(["Hi"], first=True, expanded=False))
    later = spelled(dialogue.user(["Hi"], first=False, expanded=False))
    assert first.startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>"
    )
    assert "Be kind" not in later


def test_adjacent_texts_are_one_text() -> None:
    """A chat template renders them without a seam, and a tokenizer may join their letters."""
    view = View(0, 28, 28)
    assert joined(["Frames:", "0", view, "1", view, view, "\nFind", " it."]) == [
        "Frames:0",
        view,
        "1",
        view,
        view,
        "\nFind it.",
    ]


def test_expanded_differs_only_in_pads() -> None:
    content: list[str | View] = ["a", View(0, 56, 84), "b", View(1, 28, 28)]
    short = DIALOGUE.user(content, first=True, expanded=False)
    long = DIALOGUE.user(content, first=True, expanded=True)
    image = DIALOGUE.image_id
    assert short.count(image) == 2
    assert long.count(image) == 6 + 1
    assert [i for i in short if i != image] == [i for i in long if i != image]


def test_image_tokens_follow_the_family() -> None:
    assert DIALOGUE.image_tokens(View(0, 56, 84)) == 2 * 3
    assert Dialogue(TOKENIZER, Qwen3VL()).image_tokens(View(0, 64, 96)) == 2 * 3


@pytest.mark.parametrize(("height", "width"), [(55, 84), (56, 0), (28, 30)])
def test_view_off_the_grid_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="multiples of 28"):
        DIALOGUE.image_tokens(View(0, height, width))


def test_a_tokenizer_without_the_marks_is_refused() -> None:
    class Other(Qwen2_5VL):
        chat = replace(Qwen2_5VL.chat, image="<image>")

    with pytest.raises(ValueError, match="no control token <image>.*qwen2_5_vl"):
        Dialogue(TOKENIZER, Other())


@given(TEXTS)
def test_text_never_becomes_a_control_token(text: str) -> None:
    ids = DIALOGUE.text(text)
    assert not set(ids) & control_ids(TOKENIZER)
    assert same(DIALOGUE.decode(ids), text)
    assert same(DIALOGUE.decode(DIALOGUE.completion(text)), text)


def same(a: str, b: str) -> bool:
    """Equal up to Unicode's canonical composition, which Qwen's tokeniser applies."""
    return unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b)


def test_markup_stays_one_token() -> None:
    assert len(DIALOGUE.text("<think></think>")) == 2


def test_allowed_ids() -> None:
    allowed = DIALOGUE.allowed_ids()
    assert allowed == sorted(allowed)
    assert max(allowed) < len(TOKENIZER)
    assert TOKENIZER.convert_tokens_to_ids("<|im_end|>") in allowed

    banned = set(TOKENIZER.convert_tokens_to_ids(tiny_engine.CONTROL))
    banned.remove(TOKENIZER.convert_tokens_to_ids("<|im_end|>"))
    assert set(range(len(TOKENIZER))) - set(allowed) == banned


def test_same_ids_after_saving(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = Dialogue(AutoTokenizer.from_pretrained(tmp_path), Qwen2_5VL())
    content: list[str | View] = ["Find <|im_end|> now", View(0, 28, 28)]
    expected = DIALOGUE.user(content, first=True, expanded=True)
    assert again.user(content, first=True, expanded=True) == expected
    assert again.allowed_ids() == DIALOGUE.allowed_ids()


def test_a_special_token_of_a_release_is_a_word() -> None:
    """VideoSEG-O3 adds [SEG] as a special token; the policy must read and say it."""
    tokenizer = tiny_engine.tokenizer()
    tokenizer.add_tokens([AddedToken("[SEG]", special=True, normalized=False)])
    dialogue = Dialogue(tokenizer, Qwen2_5VL())
    seg = tokenizer.convert_tokens_to_ids("[SEG]")

    assert dialogue.text("a[SEG]b") == [*dialogue.text("a"), seg, *dialogue.text("b")]
    assert seg in dialogue.allowed_ids()
    assert dialogue.id_of("<|image_pad|>") not in dialogue.allowed_ids()
    assert dialogue.decode([*dialogue.text("a[SEG]"), dialogue.end_id]) == "a[SEG]"
    assert len(dialogue.text("<|image_pad|>")) > 1
