"""Several videos and their sentences, from a folder and from a list."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ray_jobs.driver.video_list import lines_of, names_several, read_all


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two clips as images and a file that is no video."""
    image(tmp_path / "clip 10/1.png")
    image(tmp_path / "clip 2/1.png")
    (tmp_path / "clip 3.MP4").write_text("no pictures here")
    (tmp_path / "notes.txt").write_text("not a video")
    (tmp_path / "._clip 2.mp4").write_text("left by another system")
    return tmp_path


def test_a_folder_of_videos_is_told_from_one_of_images(folder: Path) -> None:
    assert names_several(folder)
    assert not names_several(folder / "clip 2")
    assert not names_several(folder / "clip 3.MP4")
    assert names_several("not/there/yet.CSV")
    (folder / "empty").mkdir()
    assert not names_several(folder / "empty")


def test_videos_of_a_folder_are_sorted_and_an_unreadable_one_is_told(folder: Path) -> None:
    lines = lines_of(folder, " the dog ")
    assert [line.video.name for line in lines] == ["clip 2", "clip 3.MP4", "clip 10"]
    wanted, unreadable = read_all(lines, folder / "out")
    assert [each.folder.name for each in wanted] == ["clip_2", "clip_10"]
    assert {each.sample.query for each in wanted} == {"the dog"}
    [message] = unreadable
    assert "clip 3.MP4" in message
    with pytest.raises(ValueError, match="the sentence is empty"):
        lines_of(folder, " ")


def test_images_of_several_sizes_are_told_before_anything_starts(folder: Path) -> None:
    Image.new("RGB", (16, 12)).save(folder / "clip 2/2.png")
    wanted, unreadable = read_all(lines_of(folder, "the dog"), folder / "out")
    assert [each.folder.name for each in wanted] == ["clip_10"]
    assert "2.png is 12 x 16 (height x width), but the first image" in unreadable[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_has_paths_beside_it_and_a_folder_for_each_line(folder: Path, encoding: str) -> None:
    file = folder / "list.csv"
    text = 'note,video,sentence\n,clip 2,"the dog, 犬"\n,clip 10,a cat\n\n,clip 2,a cat\n,none,it\n'
    file.write_text(text, encoding=encoding)
    wanted, [missing] = read_all(lines_of(file, ""), folder / "out")
    assert [each.folder.name for each in wanted] == ["clip_2", "clip_10", "clip_2_2"]
    assert [each.sample.query for each in wanted] == ["the dog, 犬", "a cat", "a cat"]
    assert len({each.sample.uid for each in wanted}) == 3
    # Equal videos are segmented together.
    assert wanted[0].sample.video == wanted[2].sample.video
    assert missing.startswith(f"{file}, line 6: {folder}/none: no such file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'video'"),
        ("video;sentence\na;b\n", "no column 'video'"),
        ("video,text\na,b\n", "no column 'sentence'"),
        ("video,sentence\n", "no video below the first line"),
        ("video,sentence\na,\n", "line 2: the sentence is empty"),
        ("video,sentence\n,b\n", "line 2: the video is empty"),
        ("video,sentence\na,the dog, or cat\n", "line 2: more cells than columns"),
    ],
)
def test_a_wrong_list_is_told_by_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        lines_of(file, "")


def test_a_list_in_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes("video,sentence\na,é\n".encode("cp1252"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        lines_of(file, "")
    with pytest.raises(ValueError, match="no such list"):
        lines_of(tmp_path / "other.csv", "")
