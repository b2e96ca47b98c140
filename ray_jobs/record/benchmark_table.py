"""The table of several benchmarks: this run beside published methods, for people and for papers.

    table.md    a line a figure, a column a method; sources and open questions below
    table.csv   a line a figure and method, at full precision: pandas pivots it
    table.tex   a line a method, columns by benchmark; needs the package booktabs

A set without public truth says "submit": its zip goes to the benchmark's server.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.evaluation.protocols import BINARY, MERGED
from core.files import write_atomic
from core.printable import printable
from ray_jobs.record.published import Published, published_on

FILES = ("table.md", "table.csv", "table.tex")
SUBMIT = "submit"

TITLES = {
    "mevis": "MeViS",
    "revos": "ReVOS",
    "lvvis": "LV-VIS",
    "reasonvos": "ReasonVOS",
    "longrvos": "Long-RVOS",
    "ref_youtube_vos": "Ref-YouTube-VOS",
    "ref_davis17": "Ref-DAVIS17",
    "ref_sav": "Ref-SAV",
    "groundmore": "GroundMoRe",
    "reasonseg": "ReasonSeg",
    "refcoco": "refCOCO",
    "refcoco+": "refCOCO+",
    "refcocog": "refCOCOg",
}

# Columns by protocol, in the order of the papers. Others are those of a mean.
MEAN = ("J", "F", "J&F")
COLUMNS = {
    "revos": (
        "referring/J",
        "referring/F",
        "referring/J&F",
        "reasoning/J",
        "reasoning/F",
        "reasoning/J&F",
        *MEAN,
        "R@binary",
        "R@visa255",
    ),
    "images": ("gIoU", "cIoU"),
    MERGED: (*MEAN, f"{BINARY}/J", f"{BINARY}/F", f"{BINARY}/J&F"),
    "by_kind": (*MEAN, "tIoU", "vIoU"),
    "ref_sav": (*MEAN, "A"),
}
# Figures of a kind of expressions, and of expressions without a target: shown where they are.
OF_KIND = ("J&F", "gIoU", "cIoU")
NO_TARGET = ("T-acc", "N-acc")


@dataclass(frozen=True)
class MeasuredSet:
    """One benchmark as this run measured it.

    Attributes:
        name: The name of the set.
        benchmark: As `ray_jobs.record.published.benchmark_of` names it.
        split: Its split.
        protocol: The protocol of its figures.
        expressions: Number of expressions.
        figures: Percent, by name; None without public truth.
    """

    name: str
    benchmark: str
    split: str
    protocol: str
    expressions: int
    figures: Mapping[str, float] | None

    @property
    def title(self) -> str:
        return f"{TITLES.get(self.benchmark, self.name)} {self.split}"

    @property
    def columns(self) -> list[str]:
        """Names of the figures to show."""
        if self.figures is None:
            return list(COLUMNS["images"] if self.protocol == "images" else MEAN)
        names = list(COLUMNS.get(self.protocol, MEAN))
        for name in self.figures:
            kind, _, figure = name.partition("/")
            if kind and figure in OF_KIND and name not in names:
                names.append(name)
        if "N-acc" in self.figures:
            names += NO_TARGET
        return [name for name in names if name in self.figures]


@dataclass(frozen=True)
class Row:
    """One figure of one set.

    Attributes:
        title: The set, as people call it.
        measured: The set.
        figure: The name of the figure.
        published: The published rows that state it, by method.
    """

    title: str
    measured: MeasuredSet
    figure: str
    published: Mapping[str, Published]

    @property
    def own(self) -> str:
        """The figure of this run, as papers round it."""
        if self.measured.figures is None:
            return SUBMIT
        return f"{self.measured.figures[self.figure]:.1f}"


@dataclass(frozen=True)
class BenchmarkTable:
    """All figures of an evaluation of several sets.

    Attributes:
        run: Name of this run.
        title: What was measured.
        rows: A row a figure, in the order of the sets.
        methods: Published methods with at least one of the figures.
        marks: Letter of each note of a published figure.
    """

    run: str
    title: str
    rows: tuple[Row, ...]
    methods: tuple[str, ...]
    marks: Mapping[str, str]

    @property
    def sources(self) -> list[str]:
        """Each source once, with its methods."""
        methods: dict[str, list[str]] = {}
        for row in self.rows:
            for method, published in row.published.items():
                of_source = methods.setdefault(published.source, [])
                if method not in of_source:
                    of_source.append(method)
        return [f"{', '.join(sorted(names))}: {source}" for source, names in methods.items()]

    @property
    def notes(self) -> list[str]:
        """Each note with its letter, and the meaning of "submit" if it occurs."""
        lines = [f"({mark}) {note}" for note, mark in self.marks.items()]
        if any(row.own == SUBMIT for row in self.rows):
            lines.append(
                f"{SUBMIT}: the truth is not public; the zip for the server lies in its set"
            )
        return lines

    def cell(self, row: Row, method: str) -> str:
        """Return the published figure of a method, with the letter of its note; "" without one."""
        published = row.published.get(method)
        if published is None:
            return ""
        mark = self.marks.get(published.note, "")
        value = f"{published.figures[row.figure]:.1f}"
        return f"{value} ({mark})" if mark else value


def build(run: str, title: str, sets: Sequence[MeasuredSet]) -> BenchmarkTable:
    """Return the table of some sets, with all published figures of the same splits."""
    rows: list[Row] = []
    methods: dict[str, None] = {}
    marks: dict[str, str] = {}
    titles = [measured.title for measured in sets]
    for measured in sets:
        # Two sets of one benchmark, such as two versions, are told apart by their names.
        is_unique = titles.count(measured.title) == 1
        set_title = measured.title if is_unique else f"{measured.title} {measured.name}"
        known = published_on(measured.benchmark, measured.split)
        for figure in measured.columns:
            stated = [published for published in known if figure in published.figures]
            by_method = {each.method: each for each in stated}
            rows.append(Row(set_title, measured, figure, by_method))
            for published in stated:
                methods.setdefault(published.method)
                if published.note:
                    marks.setdefault(published.note, chr(ord("a") + len(marks)))
    return BenchmarkTable(run, title, tuple(rows), tuple(sorted(methods)), marks)


def write(folder: Path, table: BenchmarkTable) -> None:
    """Write the table in its three forms, each atomically."""
    texts = (markdown(table), csv_text(table), latex(table))
    for name, text in zip(FILES, texts, strict=True):
        write_atomic(folder / name, printable(text))


def of_system(table: BenchmarkTable, system: str) -> BenchmarkTable:
    """Return the table with the published methods of one system alone, as a terminal shows it."""
    own = system.replace("_", "")
    methods = []
    for method in table.methods:
        if method.lower().replace("-", "").startswith(own):
            methods.append(method)

    rows = []
    notes = set()
    for row in table.rows:
        published = {name: row.published[name] for name in methods if name in row.published}
        rows.append(replace(row, published=published))
        notes |= {each.note for each in published.values()}
    marks = {note: mark for note, mark in table.marks.items() if note in notes}
    return replace(table, rows=tuple(rows), methods=tuple(methods), marks=marks)


def screen_rows(table: BenchmarkTable) -> list[list[str]]:
    """Return head and cells of the table for a terminal."""
    return _lines(table, table.methods)


def markdown(table: BenchmarkTable) -> str:
    """Return the table for a README, with sources and notes below."""
    head, *body = _lines(table, table.methods)
    head[0] = "benchmark"
    lines = [table.title, "", _markdown_line(head)]
    lines.append("|---" * 2 + "|---:" * (len(head) - 2) + "|")
    lines += [_markdown_line(line) for line in body]
    if table.sources:
        lines += ["", "Published figures, not measured here:", ""]
        lines += [f"- {source}" for source in table.sources]
    if table.notes:
        lines += ["", *[f"- {note}" for note in table.notes]]
    return "\n".join(lines) + "\n"


def csv_text(table: BenchmarkTable) -> str:
    """Return a line for each figure and method, at full precision; "submit" has no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("set", "benchmark", "split", "figure", "method", "value", "source", "note"))
    for row in table.rows:
        measured = row.measured
        head = (measured.name, measured.benchmark, measured.split, row.figure)
        if measured.figures is None:
            writer.writerow((*head, table.run, "", "this run", SUBMIT))
        else:
            value = repr(float(measured.figures[row.figure]))
            writer.writerow((*head, table.run, value, "this run", ""))
        for method, published in row.published.items():
            value = repr(published.figures[row.figure])
            writer.writerow((*head, method, value, published.source, published.note))
    return out.getvalue()


def latex(table: BenchmarkTable) -> str:
    """Return a tabular of booktabs: a line a method, this run last; sources as comments."""
    titles, rules = _tex_heads(table)
    figures = [_tex(row.figure) for row in table.rows]
    comments = (table.title, *table.sources, *table.notes)
    lines = [f"% {printable(text, lines=False)}" for text in comments]
    lines.append(rf"\begin{{tabular}}{{l{'r' * len(figures)}}}")
    lines += [r"\toprule", _tex_line(["", *titles]), " ".join(rules)]
    lines += [_tex_line(["method", *figures]), r"\midrule"]
    for method in table.methods:
        cells = [table.cell(row, method) or "--" for row in table.rows]
        lines.append(_tex_line([_tex(method), *cells]))
    if table.methods:
        lines.append(r"\midrule")
    lines.append(_tex_line([_tex(table.run), *[row.own for row in table.rows]]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _tex_heads(table: BenchmarkTable) -> tuple[list[str], list[str]]:
    """Return a title over the columns of each set, and a rule below it."""
    widths: dict[str, int] = {}
    for row in table.rows:
        title = row.title
        widths[title] = widths.get(title, 0) + 1

    titles = []
    rules = []
    column = 2
    for title, width in widths.items():
        titles.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(title)}}}")
        rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    return titles, rules


def _lines(table: BenchmarkTable, methods: Sequence[str]) -> list[list[str]]:
    """Return head and cells: a line a figure, this run first, then some published methods."""
    lines = [["", "figure", table.run, *methods]]
    before = None
    for row in table.rows:
        # The set is named on its first line alone.
        is_first = row.measured is not before
        title = f"{row.title} ({row.measured.expressions})" if is_first else ""
        before = row.measured
        published = [table.cell(row, method) for method in methods]
        lines.append([title, row.figure, row.own, *published])
    return lines


def _markdown_line(cells: Sequence[str]) -> str:
    escaped = [printable(cell, lines=False).replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    """Return a text with the marks of LaTeX escaped."""
    text = printable(text, lines=False).replace("\\", r"\textbackslash ")
    for mark in "&%$#_{}":
        text = text.replace(mark, f"\\{mark}")
    return text
