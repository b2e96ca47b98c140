"""The replay page on disk: what its scripts hold, whatever a model wrote or a kill left."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from core.files import append_lines
from ray_jobs.record.predictions import line_of
from ray_jobs.record.replay_data import script
from ray_jobs.replay import main, server_of, write_site
from tests.ray_jobs.replay_run import (
    HOSTILE,
    columns_of,
    data_of,
    evaluation_of,
    group_of,
    sample_of,
    write_run,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("replay"), "first")
    write_site([run])
    return run


def test_a_row_for_each_episode(run: Path) -> None:
    index = data_of(run / "replay/data/index.js")
    columns = columns_of(run)
    assert len(columns["step"]) == 3 * 6 + 2
    assert index["system"] == "revseg"
    assert index["weights"] == {"format": 1.0, "temporal": 1.0, "spatial": 1.0}
    assert index["samples"][1] == ["v/1", HOSTILE, "<b>kind</b>"]
    assert columns["reward"][:3] == [0.5, 1.5, 2.5]
    assert columns["advantage"][:3] == [-1.0, 0.0, 1.0]
    assert index["steps"][1]["seconds"] == {"play": 1.25, "learn": 0.5}
    assert [source["name"] for source in index["sources"]] == ["training", "eval_3_greedy"]
    assert columns["score"][-1] == 0.8
    assert columns["seconds"][:3] == [1.5, 2.5, 3.5]


def test_every_row_finds_its_text(run: Path) -> None:
    columns = columns_of(run)
    row = columns["step"].index(2) + 1
    assert columns["chunk"][row] == 0
    line = data_of(run / "replay/data/episodes_training_0.js")[row]
    assert line["turns"][0]["text"] == "ünïcode 漢字 in step 2"
    assert line["turns"][0]["prompt"] == "Find: the red square that moves⟨image⟩"
    assert line["places"][0]["box"] == [6.0, 20.0, 26.0, 40.0]
    assert line["seconds"] == {"play": 2.5, "score": 0.25}


def test_kept_groups_have_tokens_pictures_and_truth(run: Path) -> None:
    group = data_of(run / "replay/data/kept_step_2.js")["v/0"]
    turn = group["episodes"][1]["turns"][0]
    texts = [text for text, *_ in turn["pieces"]]
    assert "".join(texts).startswith("ünïcode 漢字 in step 2")
    assert turn["pieces"][1][1:] == [-0.1, 0.5]
    assert group["episodes"][1]["turns"][1]["pieces"][0][1:] == [0.0, 1.0]
    assert len(group["truth"]) == 7
    pictures = [digest for _, digest in group["frames"]] + [each[1] for each in turn["shown"]]
    for digest in pictures:
        assert (run / f"replay/pictures/{digest}.jpg").is_file()


def test_a_token_that_was_not_learned_has_no_entropy(run: Path) -> None:
    group = data_of(run / "replay/data/kept_step_2.js")["v/1"]
    assert {len(piece) for piece in group["episodes"][0]["turns"][0]["pieces"]} == {2}


def test_an_evaluation_keeps_masks(run: Path) -> None:
    group = data_of(run / "replay/data/kept_eval_3_greedy.js")["v/0"]
    assert group["episodes"][0]["masks"] == group["truth"]


@pytest.mark.parametrize(
    "value",
    ["</script><!--", "\u2028\u2029", "\ud800", "'\"`${x}", {"__proto__": "x"}, [1, None, "é"]],
)
def test_values_come_back_from_ascii_without_markup(tmp_path: Path, value: object) -> None:
    text = script("name", value)
    assert "<" not in text
    assert text.count("\n") == 1
    (tmp_path / "name.js").write_text(text, encoding="ascii")
    assert data_of(tmp_path / "name.js") == value


def test_numbers_that_are_none_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "name.js").write_text(script("name", [float("nan"), {"a": float("inf")}]))
    assert data_of(tmp_path / "name.js") == [None, {"a": None}]


def test_odd_lines_cost_only_themselves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    run.mkdir()
    odd = {
        "step": "x",
        "seconds": {"play": "long"},
        "sample": 7,
        "reward": "nan",
        "end": None,
        "turns": [3, {"tokens": "many", "version": 1e400}],
        "scores": [],
        "parts": 5,
    }
    (run / "episodes.jsonl").write_text('{"step": 1, "rew\n[1]\n\n' + json.dumps(odd) + "\n")
    append_lines(run / "episodes.jsonl", {"step": 2, "sample": "v", "reward": 1.5, "end": "done"})
    with (run / "episodes.jsonl").open("a") as file:
        file.write('{"step": 3')
    (run / "config.yaml").write_text("system: [")
    main([str(run)])
    index = data_of(run / "replay/data/index.js")
    columns = columns_of(run)
    assert columns["reward"] == [None, 1.5]
    assert columns["step"] == [0, 2]
    # The last line is still being written.
    assert index["broken"] == 2
    assert "2 lines are broken" in capsys.readouterr().out


def test_predictions_of_the_job_evaluate(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "video", "v/0", "the red square")
    [result, *_] = evaluation_of(sample, group_of(sample, 1, ("it moves",))).results
    line = line_of(sample, result.episode, result.masks_F, result.reward, result.scores)
    append_lines(tmp_path / "predictions.jsonl", line)
    write_site([tmp_path])
    data = tmp_path / "replay/data"
    columns = columns_of(tmp_path)
    assert (columns["score"], columns["kept"], columns["seconds"]) == ([0.8], [1], [1.5])
    [text] = data_of(data / "episodes_eval_0_predictions_0.js")
    assert text["turns"][0]["text"] == "it moves"
    assert "masks" not in text
    kept = data_of(data / "kept_eval_0_predictions_0.js")["v/0"]
    assert kept["episodes"][0]["masks"][0] == [0, sample.targets[0].masks_F[0]]


def test_two_runs_find_each_other(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "else where", "second", steps=1)
    write_site([run, other])
    first, second = data_of(run / "replay/data/site.js")
    assert first == {"base": ""}
    assert "%20" in second["base"]


def test_mistakes_are_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        write_site([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="no episodes.jsonl"):
        write_site([tmp_path])
    with pytest.raises(ValueError, match="one run twice"):
        write_site([run, run])


def test_the_server_gives_the_page_and_nothing_else(run: Path) -> None:
    with server_of([run], 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        try:
            with urllib.request.urlopen(f"{home}/replay/index.html") as page:
                assert b"<!doctype html>" in page.read()
            for path in ("config.yaml", "replay/../config.yaml", "replay/", ""):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(f"{home}/{path}")
            with pytest.raises(ValueError, match=f"port {server.server_port} cannot be used"):
                server_of([run], server.server_port)
        finally:
            server.shutdown()
