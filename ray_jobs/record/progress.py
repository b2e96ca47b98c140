"""The display of a running job: live on a terminal, plain lines in a log.

    with Progress.open(100, "revseg · tiny/weights/revseg · runs/revseg_tiny") as progress:
        with progress.phase("evaluate", total=200) as phase:
            phase.advance(1)
        progress.step(1, {"reward": 1.2, "reward/format": 0.9}, {"play": 1.5, "learn": 2.0})

Numbers are shown by their names. Only means and the remaining time are computed here.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from core.printable import printable

# Stages of a step: shown while they run, without a line of their own afterwards.
STAGES = ("play", "mask", "score", "learn", "publish")

REFRESH_S = 0.2

# Seconds between two lines about a phase in a log, and to the first one.
TELL_S = 60.0
FIRST_S = 10.0

# Steps in the live table.
LAST = 8

BARS = "▁▂▃▄▅▆▇█"

# Figures besides the reward that get a column: metric, head, format.
EXTRAS = (
    ("logprob_gap_mean", "gap", "{:.1e}"),
    ("jf", "J&F", "{:.1f}"),
    ("J&F", "J&F", "{:.1f}"),
    ("tokens_per_second", "tok/s", "{:.0f}"),
)


def _before_the_first_line() -> float:
    return time.monotonic() - TELL_S + FIRST_S


@dataclass
class Phase:
    """A part of a job that takes a while.

    Attributes:
        total: number of pieces, None if they cannot be counted.
        then: what comes after it; empty if that need not be said.
        say: takes a line about a long phase now and then, in a log; None on a terminal.
        told: time of the last such line.
    """

    name: str
    total: float | None = None
    then: str = ""
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)
    say: Callable[[str], None] | None = None
    told: float = field(default_factory=_before_the_first_line)

    def __post_init__(self) -> None:
        self.spinner = Spinner("dots")

    def advance(self, count: float = 1) -> None:
        """Count finished pieces."""
        self.done += count
        now = time.monotonic()
        if self.say is not None and now - self.told > TELL_S:
            self.told = now
            self.say(f"{self.name}: {self.state()}")

    def state(self) -> str:
        """Return the seconds so far, the estimated rest, and what comes then."""
        text = duration(self.seconds)
        if self.total and self.done:
            left = self.seconds * max(self.total - self.done, 0.0) / self.done
            text = f"{self.done:g}/{self.total:g}, {text}, about {duration(left)} left"
        return f"{text}, then {self.then}" if self.then else text

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


@dataclass(frozen=True)
class Step:
    """A finished step; `at` is the monotonic time of its report."""

    number: int
    metrics: dict[str, float]
    seconds: dict[str, float]
    at: float


class Screen(Console):
    """A console whose printing and refreshing take turns.

    rich computes the cursor's way before it writes, so a line printed during another thread's
    refresh would overwrite a line above it. While the display is live, `print` to standard output
    comes through here too.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.turn = threading.RLock()
        super().__init__(highlight=False, **kwargs)

    def __enter__(self) -> Screen:
        # A turn lasts until the text is written. rich writes at the end of its outermost block,
        # which for `print` to standard output is not that of its own `print`.
        self.turn.acquire()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.turn.release()


class Progress:
    """The display. Start it with `Progress.open`; any thread may call it.

    With `live` False it writes plain lines.
    """

    def __init__(self, total_steps: int, title: str, console: Screen, live: bool) -> None:
        self.total_steps = total_steps
        self.title = title
        self.console = console
        self._began = time.monotonic()
        self._steps: list[Step] = []
        self._phases: list[Phase] = []
        self._lock = console.turn
        self._live: Live | None = None
        if live:
            self._live = Live(console=console, get_renderable=self.screen, auto_refresh=False)
        self._rest = threading.Event()
        self._refresher: threading.Thread | None = None

    @classmethod
    def open(cls, total_steps: int, title: str) -> Progress:
        """Start a display: live if standard output is a terminal with a movable cursor."""
        console = Screen()
        live = sys.stdout.isatty() and not console.is_dumb_terminal
        progress = cls(total_steps, title, console, live)
        if live:
            progress._wake()
        else:
            progress._line(_shown(title))
        return progress

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last screen standing and give the terminal back. It may be called twice."""
        self._rest.set()
        if self._refresher is not None:
            self._refresher.join()
            self._refresher = None
        if self._live is not None:
            with self._lock:
                self._live.stop()

    @contextmanager
    def phase(self, name: str, total: float | None = None, then: str = "") -> Iterator[Phase]:
        """Show `name` while the block runs, and a line with its seconds afterwards.

        The stages of a step leave no line.

        Args:
            total: number of pieces, None if they cannot be counted.
            then: what comes after it; empty if that need not be said.
        """
        phase = Phase(name, total, then, say=self.note if self._live is None else None)
        self._wake()
        with self._lock:
            self._phases.append(phase)
        try:
            yield phase
        except BaseException:
            self._line(f"[red]✗[/] {_shown(name)} failed after {duration(phase.seconds)}")
            raise
        else:
            if name not in STAGES:
                self._line(f"[green]✓[/] {_shown(name)} [dim]{duration(phase.seconds)}[/]")
        finally:
            with self._lock:
                self._phases.remove(phase)

    def step(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Report a finished step: a row of the live table, or one line of a log."""
        self._wake()
        with self._lock:
            self._steps.append(Step(step, dict(metrics), dict(seconds), time.monotonic()))
        if self._live is None:
            line = step_line(self._steps[-1], self.total_steps, self.remaining())
            self._line(_shown(line))

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._line(_shown(text))

    def table(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        """Print a table that stays. The live display rests until the next phase or step.

        A first row with an empty first cell is the head.
        """
        has_head = bool(rows) and rows[0][0] == ""
        head = rows[0] if has_head else ()
        body = rows[1:] if has_head else rows
        table = Table(
            title=_shown(title), title_justify="left", box=box.ROUNDED, show_header=has_head
        )
        columns = max((len(row) for row in rows), default=0)
        for column in range(columns):
            name = _shown(head[column]) if column < len(head) else ""
            table.add_column(name, justify="left" if column == 0 else "right")
        for row in body:
            table.add_row(*(_shown(cell) for cell in row))
        self.close()
        self.console.print(table)

    def doing(self) -> list[str]:
        """Return the phases that run now, each with its time so far and the rest."""
        with self._lock:
            return [f"{phase.name}: {phase.state()}" for phase in self._phases]

    def remaining(self) -> float | None:
        """Return the estimated seconds to the last step, or None before the first one.

        The wall time of a step so far counts, evaluation and checkpoints included.
        """
        if not self._steps:
            return None
        first = self._steps[0]
        last = self._steps[-1]
        if len(self._steps) == 1:
            each = sum(first.seconds.values())
        else:
            each = (last.at - first.at) / (len(self._steps) - 1)
        return each * (self.total_steps - last.number)

    def screen(self) -> RenderableType:
        """Return the live part: bar of all steps, running phases, last steps, reward curve."""
        with self._lock:
            parts: list[RenderableType] = [self._overall()]
            if self._phases:
                parts.append(_phase_rows(self._phases, _bar_width(self.console)))
            if self._steps:
                parts.append(step_table(self._steps[-LAST:], self.console.width - 4))
                parts.append(self._curve())
        return Panel(
            Group(*parts),
            title=f"[bold]{_shown(self.title)}[/]",
            title_align="left",
            border_style="cyan",
        )

    def _overall(self) -> RenderableType:
        spent = duration(time.monotonic() - self._began)
        if not self.total_steps:
            return Text(spent)
        done = self._steps[-1].number if self._steps else 0
        left = self.remaining()
        if left is not None:
            spent += f", about [bold]{duration(left)}[/] left"
        bar = ProgressBar(self.total_steps, done, width=_bar_width(self.console))
        grid = Table.grid(padding=(0, 1))
        grid.add_row(f"step [bold]{done}[/] of {self.total_steps}", bar, spent)
        return grid

    def _curve(self) -> RenderableType:
        rewards = [step.metrics["reward"] for step in self._steps if "reward" in step.metrics]
        if not rewards:
            return Text()
        bars = sparkline(rewards, max(10, min(60, self.console.width - 42)))
        ends = f"{_mean(rewards[:10]):.3f} → {_mean(rewards[-10:]):.3f}"
        return Text.from_markup(f"reward [green]{bars}[/] {ends} [dim](means of 10)[/]")

    def _wake(self) -> None:
        """Start the live display if it rests."""
        with self._lock:
            if self._live is None or self._live.is_started:
                return
            self._live.start()
            self._rest.clear()
            self._refresher = threading.Thread(target=self._refresh, name="progress", daemon=True)
            self._refresher.start()

    def _refresh(self) -> None:
        while self._live is not None and not self._rest.wait(REFRESH_S):
            with self._lock:
                self._live.refresh()

    def _line(self, markup: str) -> None:
        with self._lock:
            if self._live is not None:
                self.console.print(markup)
            else:
                # One write without wrapping: a log line stays one line at any width.
                print(Text.from_markup(markup).plain, flush=True)


def step_line(step: Step, total_steps: int, left: float | None) -> str:
    """Return a step as one plain line: reward, its parts, gap, J&F, seconds, remaining time."""
    metrics = step.metrics
    words = [f"step {step.number:>{len(str(total_steps))}}/{total_steps}"]
    if "reward" in metrics:
        reward = f"reward {metrics['reward']:.3f}"
        parts = _reward_parts([step])
        if parts:
            each = " ".join(f"{head} {metrics[key]:.2f}" for key, head in parts.items())
            reward += f" ({each})"
        words.append(reward)
    elif "loss" in metrics:
        words.append(f"loss {metrics['loss']:.4f}")
    for head, value in _extras(metrics).items():
        words.append(f"{head} {value}")
    stages = " ".join(f"{name} {seconds:.1f}" for name, seconds in step.seconds.items())
    words.append(f"{sum(step.seconds.values()):.1f} s ({stages})")
    if left is not None:
        words.append(f"{duration(left)} left")
    return "  ".join(words)


def step_table(steps: Sequence[Step], width: int) -> Table:
    """Return a table of the last steps, newest last.

    The last columns are left out if they do not fit into `width` characters.
    """
    rows = [_cells(step) for step in steps]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    used = 0
    heads = []
    for head in _heads(steps):
        longest = max(len(row.get(head, "")) for row in rows)
        used += 3 + max(len(head), longest)
        if used > width:
            break
        heads.append(head)
        style = "bold" if head == "reward" else ""
        table.add_column(head, justify="right", no_wrap=True, style=style)
    for row in rows:
        table.add_row(*(row.get(head, "") for head in heads))
    return table


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values as a row of at most `width` bars from lowest to highest.

    Neighbours are averaged if there are more values than bars.
    """
    count = min(width, len(values))
    if count == 0:
        return ""
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [_mean(values[start:stop]) for start, stop in itertools.pairwise(edges)]
    low = min(means)
    span = max(means) - low
    if not span > 0:
        # All values are equal, or one is NaN.
        return BARS[0] * count
    top = len(BARS) - 1
    return "".join(BARS[round((mean - low) / span * top)] for mean in means)


def duration(seconds: float) -> str:
    """Return a time in words: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _reward_parts(steps: Sequence[Step]) -> dict[str, str]:
    """Return metric -> head of the reward's parts in any of the steps."""
    parts = {}
    for step in steps:
        for key in step.metrics:
            if key.startswith("reward/"):
                parts[key] = key.removeprefix("reward/")
    return parts


def _extras(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return head -> value of the figures in EXTRAS."""
    shown = {}
    for key, head, form in EXTRAS:
        if key in metrics:
            shown[head] = form.format(metrics[key])
    return shown


def _cells(step: Step) -> dict[str, str]:
    """Return head -> text of a step's row."""
    metrics = step.metrics
    cells = {"step": str(step.number)}
    if "reward" in metrics:
        cells["reward"] = f"{metrics['reward']:.3f}"
    for key, head in _reward_parts([step]).items():
        cells[head] = f"{metrics[key]:.2f}"
    cells |= _extras(metrics)
    cells["seconds"] = f"{sum(step.seconds.values()):.1f}"
    for stage, seconds in step.seconds.items():
        cells[stage] = f"{seconds:.1f}"
    return cells


def _heads(steps: Sequence[Step]) -> list[str]:
    """Return the heads of all columns, in the order in which a first row has them."""
    heads: dict[str, None] = {}
    for step in steps:
        heads |= dict.fromkeys(_cells(step))
    return list(heads)


def _phase_rows(phases: Sequence[Phase], width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for phase in phases:
        bar: RenderableType = ""
        if phase.total:
            bar = ProgressBar(phase.total, phase.done, width=width)
        grid.add_row(phase.spinner, _shown(phase.name), bar, f"[dim]{phase.state()}[/]")
    return grid


def _shown(text: str) -> str:
    """Return a text without control characters and without rich's own marks."""
    return escape(printable(text))


def _bar_width(console: Console) -> int:
    return max(5, min(30, console.width - 60))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
