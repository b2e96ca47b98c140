"""Texts in any script: each letter has a font, and right-to-left texts go from right to left."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ray_jobs.record import lettering
from ray_jobs.record.lettering import Lettering, clusters, is_right_to_left
from ray_jobs.record.overlay import wrap

TEXTS = {
    "Latin": "naïve café \u2013 “Ærøskøbing”",
    "Greek": "η μαύρη γάτα",
    "Cyrillic": "чёрный кот",
    "Chinese": "哪个物体最重\uff1f",
    "Japanese": "どの犬が強い",
    "Korean": "가장 무거운 것",
    "Arabic": "الكلب الأسود",
    "Hebrew": "הכלב השחור",
    "Devanagari": "काला कुत्ता",
    "Bengali": "কালো কুকুর",
    "Tamil": "கருப்பு நாய்",
    "Telugu": "నల్ల కుక్క",
    "Thai": "หมาสีดำ",
    "Khmer": "ឆ្កែខ្មៅ",
    "Georgian": "შავი ძაღლი",
    "Armenian": "սև շուն",
    "Amharic": "ጥቁር ውሻ",
    "Burmese": "ခွေးမည်း",
    "emoji": "🐶 🚲",
    "signs": "→ ∑ ½ €",
}


def drawn(text: str, size: int = 24) -> np.ndarray:
    image = Image.new("L", (500, 48))
    Lettering(size).draw(ImageDraw.Draw(image), (4, 4), text, 255)
    return np.asarray(image)


@pytest.mark.parametrize("script", TEXTS)
def test_every_letter_has_a_font_and_leaves_ink(script: str) -> None:
    for letter in TEXTS[script].replace(" ", ""):
        file = lettering._file_of(letter)
        assert file is not None
        assert ord(letter) in lettering._letters(file), f"no font has {letter!r}"
    picture_HW = drawn(TEXTS[script])
    assert (picture_HW > 128).sum() > 50
    columns = np.flatnonzero(picture_HW.any(axis=0))
    assert abs(columns[-1] - 4 - Lettering(24).getlength(TEXTS[script])) < 8


def test_right_to_left_texts_go_from_right_to_left() -> None:
    assert is_right_to_left("הכלב and שחור")
    assert is_right_to_left("12 الكلب")
    assert not is_right_to_left("the הכלב")
    # The word that comes first stands at the right.
    hebrew = "אא"
    wide = "mmmmmm"
    picture_HW = drawn(f"{hebrew} {wide}")
    alone_HW = drawn(wide)
    width = np.flatnonzero(alone_HW.any(axis=0))[-1]
    assert np.array_equal(picture_HW[:, : width + 1], alone_HW[:, : width + 1])
    assert picture_HW[:, width + 4 :].any()
    # In a text from left to right it stands where it is read.
    assert np.array_equal(drawn(f"{wide} {hebrew}")[:, : width + 1], alone_HW[:, : width + 1])


def test_marks_stay_with_their_letters() -> None:
    assert clusters("cafe\u0301") == ["c", "a", "f", "e\u0301"]
    for line in wrap("กำ" * 40, Lettering(15), 90):
        assert not line.startswith("\u0e31")
    lines = wrap("哪个物体最重" * 10, Lettering(15), 200)
    assert "".join(lines) == "哪个物体最重" * 10
    assert max(Lettering(15).getlength(line) for line in lines) <= 200


def test_without_any_font_pillow_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "font_files", tuple)
    lettering._file_of.cache_clear()
    try:
        assert (drawn("the dog") > 128).any()
    finally:
        lettering._file_of.cache_clear()
