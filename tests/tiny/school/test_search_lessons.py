"""Lessons in searching equal the system's own dialogues, and their labels are true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoTokenizer

from core.types import Sample, Video, Vision
from systems.videoseg_o3 import VideoSegO3
from systems.videoseg_o3.prompts import ask_first, ask_more
from systems.videoseg_o3.traces import Look, write_search
from tiny.school.build import SEARCH_PIECES, build
from tiny.school.lessons import fill_lesson, union_boxes
from tiny.school.script import arrays, colour_bits, num_bytes
from tiny.school.search_exam import TURN
from tiny.school.search_lessons import DIALOGUES, KEYS, PART, SearchTeacher
from tiny.school.sizes import QWEN3
from tiny.world.queries import description, queries, sentences
from tiny.world.scene import NUM_FRAMES, SIDE, random_scene

# The options under which the system shows what these lessons show.
BUDGET = {
    "temporal_frames": 16,
    "temporal_pixels": 96 * 96,
    "spatial_frames": 4,
    "spatial_pixels": 96 * 96,
    "round_frames": PART,
    "key_pixels": 128 * 128,
    "prompt": "short",
    "max_turns": 2,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> SearchTeacher:
    folder = tmp_path_factory.mktemp("tiny") / "policy"
    build(folder, sentences(), sizes=QWEN3)
    # Written in fp32, shipped in bf16.
    size = (folder / "model.safetensors").stat().st_size
    assert size / 2 <= 5e6
    return SearchTeacher(AutoTokenizer.from_pretrained(folder))


def test_an_answer_is_short_and_round_trips(teacher: SearchTeacher) -> None:
    for piece in SEARCH_PIECES:
        assert len(teacher.text(piece)) == 1
    (said,) = write_search([Look(3, 20, 7)], "red circle", "the red circle moves left")
    answer = said.partition("</think>")[2]
    assert len(teacher.text(answer)) == 14
    for text in (said, ' to {"start": 1} ☃ Step 1 [SEG]', "128 129"):
        assert teacher.dialogue.decode(teacher.text(text)) == text


def test_dialogues_are_those_of_the_system(teacher: SearchTeacher) -> None:
    scene = random_scene(np.random.default_rng(3))
    query = next(q for q in queries(scene) if q.objects)
    video = Video("v", "nowhere", tuple(f"{i:05d}" for i in range(NUM_FRAMES)), SIDE, SIDE)
    system = VideoSegO3.make(BUDGET, Vision(cell=32))
    sample = Sample("s", video, query.text, ())
    dialogue = teacher.dialogue
    look = Look(3, 20, 7)
    name = description(scene, query)
    script = teacher.ask(query.text)
    assert [*teacher.prefix.ids, *script.ids] == dialogue.user(
        ask_first(sample, system.options, system.vision), first=True, expanded=True
    )
    begin = len(script.ids)
    places = [teacher.answer(script, "select", look, query, name)]
    middle = len(script.ids)
    teacher.show_part(script, look, "Answer", query)
    assert script.ids[middle:] == dialogue.user(
        ask_more(sample, look, system.options, system.vision, last=True), first=False, expanded=True
    )
    end = len(script.ids)
    places.append(teacher.answer(script, "answer", look, query, name))
    first, second = write_search([look, look], name, query.thought)
    assert script.ids[begin:middle] == dialogue.completion(first)
    assert TURN.fullmatch(first)
    assert script.ids[end:] == dialogue.completion(second)
    assert TURN.fullmatch(second)
    for start, stop, key, seg in places:
        said = [dialogue.decode([script.ids[place]]) for place in (start, stop, key, seg)]
        assert said == ["3", "19", "7", "[SEG]"]


def test_labels_are_true(teacher: SearchTeacher) -> None:
    lesson = arrays(bytearray(num_bytes(teacher.layout, 1)), teacher.layout, 1)
    fill_lesson(lesson, 0, np.random.default_rng(8), teacher)
    scene = random_scene(np.random.default_rng(8))
    by_text = {f" Find {q.text}.": q for q in queries(scene)}
    seen = 0
    for i in range(DIALOGUES):
        ids = lesson["ids"][0, i].tolist()
        if not any(ids):
            continue
        query = by_text[teacher.dialogue.decode(ids[: ids.index(teacher.end)])]
        box_F4 = union_boxes(scene, query.objects)[teacher.sampled]
        shown = np.flatnonzero(box_F4[:, 2] > 0)
        share_PS = lesson["frame_share"][0, i]
        assert share_PS[0].argmax() == shown[0]
        assert share_PS[1].argmax() == shown[-1]
        np.testing.assert_array_equal(np.flatnonzero(share_PS[2]), shown)
        key_token = ids[lesson["frame_at"][0, i, 2]]
        key = teacher.labels.index(int(teacher.dialogue.decode([key_token])))
        np.testing.assert_allclose(lesson["seg_box"][0, i], box_F4[key] / SIDE)
        assert lesson["seg_means"][0, i] == colour_bits(description(scene, query))
        if i < KEYS and lesson["seg_at"][0, i, 1]:
            assert lesson["key_frame"][0, i] == key
            assert share_PS[5].argmax() == key
            assert lesson["part"][0, i].tolist() == [shown[0], shown[-1]]
        seen += 1
    assert seen >= 4


def test_the_folder_is_read_as_a_qwen3(tmp_path: Path) -> None:
    build(tmp_path, sentences(), sizes=QWEN3)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.vision_config.patch_size) == ("qwen3_vl", 16)
    sections = config.text_config.rope_parameters["mrope_section"]
    assert sum(sections) == config.text_config.head_dim // 2
