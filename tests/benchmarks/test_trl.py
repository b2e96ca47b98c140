"""The comparison with TRL, as far as it goes without TRL."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import trl
from configs.load import load, resolve
from core.types import Sample, Video, View
from models.dialogue import load_dialogue


def test_without_trl_it_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An import of such a module fails.
    monkeypatch.setitem(sys.modules, "trl", None)
    trl.main([])
    assert capsys.readouterr().out == "skipped: trl is not installed (pip install trl)\n"


def test_trl_gets_text_and_images_in_the_order_of_our_prompt(tmp_path: Path) -> None:
    names = tuple(f"{frame:05d}" for frame in range(20))
    for frame, name in enumerate(names):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((96, 96, 3), frame, np.uint8))
    video = Video("v", str(tmp_path), names, 96, 96)
    cfg = load(list(trl.SETTINGS))
    pieces, images = trl.message_of(cfg, Sample("v/0", video, "the red ball", ()))

    assert len(images) == sum(piece["type"] == "image" for piece in pieces) == 16
    assert {image.size for image in images} == {(84, 84)}
    assert [image.getpixel((0, 0))[0] for image in images][:3] == [0, 1, 3]
    assert pieces[-1] == {"type": "text", "text": " Find and locate the red ball."}
    # As the engine's prompt, image by image.
    content = [piece.get("text", View(0, 84, 84)) for piece in pieces]
    dialogue = load_dialogue(resolve(cfg.policy.path))
    ids = dialogue.user(content, first=True, expanded=True)
    assert ids.count(dialogue.image_id) == 16 * 9


def test_a_reward_depends_on_the_text_alone() -> None:
    texts = [f"text {number}" for number in range(100)]
    rewards = trl.hashed_rewards([[{"content": text}] for text in texts], prompts=texts)
    assert rewards == [trl.reward_of(text) for text in texts]
    assert len(set(rewards)) == 100
    assert 0 <= min(rewards) < 0.1 < 0.9 < max(rewards) < 1


def test_steps_pass_one_by_one_and_an_error_is_raised_where_one_waits() -> None:
    turnstile = trl.Turnstile()
    wait = turnstile.callback()
    done: list[int] = []

    def train() -> None:
        wait.on_train_begin()
        for number in range(2):
            done.append(number)
            wait.on_step_end()
        raise OSError("broken")

    threading.Thread(target=turnstile.run, args=(train,), daemon=True).start()
    assert done == []
    turnstile.one_step()
    assert done == [0]
    turnstile.one_step()
    assert done == [0, 1]
    with pytest.raises(RuntimeError, match="TRL's trainer ended"):
        turnstile.one_step()


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(trl.Step(own, 30.0), trl.Step(theirs, 31.0)) for own, theirs in ((4, 20), (5, 40))]
    trl.print_table(pairs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| ours | 4.50 (4.00 to 5.00) | 30.0 |"
    assert lines[3] == "| TRL | 30.00 (20.00 to 40.00) | 31.0 |"
    assert lines[4] == "TRL / ours: 6.67 (of a round: 5.00 to 8.00)"
