"""One table of several benchmarks: the columns of each protocol, published rows, three files."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from core.evaluation.protocols import MERGED
from data.load import READERS
from ray_jobs.record.benchmark_table import (
    COLUMNS,
    FILES,
    TITLES,
    MeasuredSet,
    build,
    csv_text,
    latex,
    markdown,
    of_system,
    screen_rows,
    write,
)
from ray_jobs.record.published import PUBLISHED, Published, benchmark_of, published_on

J_F_JF = {"J": 50.25, "F": 61.123456789012345, "J&F": 55.68672839450617}
REVOS = {f"{kind}/{name}": 40.0 for kind in ("referring", "reasoning") for name in J_F_JF}

HIDDEN = MeasuredSet("mevis_valid", "mevis", "valid", "mean", 2236, None)
REASONING = MeasuredSet(
    "revos_valid", "revos", "valid", "revos", 4, REVOS | J_F_JF | {"T-acc": 1.0, "N-acc": 2.0}
)
DAVIS = MeasuredSet(
    "davis",
    "ref_davis17",
    "valid",
    MERGED,
    8,
    J_F_JF | {"binary_per_expression/J&F": 70.0, "reward": 1.0},
)
IMAGES = MeasuredSet(
    "reasonseg_val", "reasonseg", "val", "images", 2, {"gIoU": 1.0, "cIoU": 2.0, "long/gIoU": 3.0}
)
LONG = MeasuredSet(
    "longrvos_valid", "longrvos", "valid", "by_kind", 3, J_F_JF | {"static/J&F": 9.0, "vIoU": 8.0}
)
ALL = [HIDDEN, REASONING, DAVIS, IMAGES, LONG]
TABLE = build("my_run", "a system, a policy, greedy", ALL)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_columns_are_those_of_the_protocol() -> None:
    assert HIDDEN.columns == ["J", "F", "J&F"]
    assert REASONING.columns == [*COLUMNS["revos"][:9], "T-acc", "N-acc"]
    assert DAVIS.columns == ["J", "F", "J&F", "binary_per_expression/J&F"]
    assert IMAGES.columns == ["gIoU", "cIoU", "long/gIoU"]
    assert LONG.columns == ["J", "F", "J&F", "vIoU", "static/J&F"]


def test_markdown_has_a_line_a_figure_and_a_column_a_method() -> None:
    lines = markdown(TABLE).splitlines()
    head = cells(lines[2])
    assert head[:3] == ["benchmark", "figure", "my_run"]
    rows = [cells(line) for line in lines[4:] if line.startswith("|")]
    assert len(rows) == sum(len(each.columns) for each in ALL)
    assert rows[0][:3] == ["MeViS valid (2236)", "J", "submit"]
    by_figure = {(row[0], row[1]): row for row in rows}
    assert by_figure["ReasonSeg val (2)", "gIoU"][2] == "1.0"
    [mevis] = [row for row in rows[:3] if row[1] == "J&F"]
    assert mevis[head.index("ReVSeg-7B")] == "59.8"
    assert re.fullmatch(r"60\.0 \([a-z]\)", mevis[head.index("VideoSEG-O3-4B")])
    text = "\n".join(lines)
    assert "does not say whether valid or valid_u" in text
    assert "arXiv 2512.02835v1" in text
    assert "submit: the truth is not public" in text


def test_csv_keeps_every_digit() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(TABLE))))
    own = {(row["set"], row["figure"]): row for row in rows if row["source"] == "this run"}
    for each in ALL:
        for figure in each.columns:
            row = own[each.name, figure]
            if each.figures is None:
                assert (row["value"], row["note"]) == ("", "submit")
            else:
                assert float(row["value"]) == each.figures[figure]
    others = [row for row in rows if row["source"] != "this run"]
    assert {"ReVSeg-7B", "VideoSeg-R1-3B", "Veason-R1-7B"} <= {row["method"] for row in others}


def test_latex_has_as_many_cells_in_every_line() -> None:
    lines = [line for line in latex(TABLE).splitlines() if not line.startswith("%")]
    figures = sum(len(each.columns) for each in ALL)
    assert lines[0] == rf"\begin{{tabular}}{{l{'r' * figures}}}"
    assert [lines[1], lines[-2]] == [r"\toprule", r"\bottomrule"]
    body = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {figures + 1}
    assert body[-1].startswith(r"my\_run & submit & submit")
    spans = re.findall(r"cmidrule\(lr\)\{(\d+)-(\d+)\}", lines[3])
    assert [int(end) - int(start) + 1 for start, end in spans] == [len(s.columns) for s in ALL]
    assert int(spans[-1][1]) == figures + 1


def test_a_terminal_shows_the_published_figures_of_the_system_alone() -> None:
    shown = of_system(TABLE, "revseg")
    rows = screen_rows(shown)
    assert rows[0] == ["", "figure", "my_run", "ReVSeg-7B"]
    assert len(rows) == len(TABLE.rows) + 1
    assert [note[:3] for note in shown.notes if note[0] == "("] == ["(b)"], "as in table.md"
    o3 = screen_rows(of_system(TABLE, "videoseg_o3"))[0]
    assert o3[3:] == ["VideoSEG-O3-2B", "VideoSEG-O3-4B"]
    assert len(screen_rows(of_system(TABLE, "a_new_one"))[0]) == 3


def test_two_sets_of_one_benchmark_are_told_apart(tmp_path: Path) -> None:
    first = MeasuredSet("mevis_valid_u", "mevis", "valid_u", "mean", 3, J_F_JF)
    second = MeasuredSet("mevis_v2", "mevis", "valid_u", "mean", 4, J_F_JF)
    table = build("run", "title", [first, second])
    assert [row.title for row in table.rows[::3]] == [
        "MeViS valid_u mevis_valid_u",
        "MeViS valid_u mevis_v2",
    ]
    assert latex(table).count("multicolumn") == 2
    write(tmp_path, table)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES)


def test_published_figures_belong_to_their_split() -> None:
    methods = [row.method for row in published_on("mevis", "valid_u")]
    assert methods == ["VideoSEG-O3-2B", "VideoSEG-O3-4B"], "their source names no split"
    [val] = [row for row in published_on("reasonseg", "val") if row.method == "ReVSeg-7B"]
    assert val.figures == {"gIoU": 63.7, "cIoU": 59.9}
    assert benchmark_of("refcoco", "/data/refcoco+") == "refcoco+"
    assert benchmark_of("revos", "/data/any") == "revos"
    assert published_on("refcoco+", "unc/val") == published_on("refcoco+", "val") != []


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.method}-{row.benchmark}")
def test_published_rows(row: Published) -> None:
    assert row.benchmark in TITLES
    figures = row.figures
    assert row.source
    if {"J", "F", "J&F"} <= figures.keys():
        # Rounded to a tenth each.
        assert abs((figures["J"] + figures["F"]) / 2 - figures["J&F"]) < 0.101
    if "referring/J&F" in figures:
        mean = (figures["referring/J&F"] + figures["reasoning/J&F"]) / 2
        assert abs(mean - figures["J&F"]) < 0.101


def test_no_two_rows_state_the_same() -> None:
    keys = [(row.method, row.benchmark, row.splits) for row in PUBLISHED]
    assert len(keys) == len(set(keys))


def test_titles_are_of_formats_that_there_are() -> None:
    assert {benchmark.rstrip("+g") for benchmark in TITLES} <= {
        format.rstrip("+g") for format in READERS
    }
