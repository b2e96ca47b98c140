"""What a person watches while a job runs: a live display on a terminal, plain lines in a log.

    with Progress.open(100, "revseg · tiny/weights/revseg · datasets/synthetic · runs/revseg_tiny") as progress:
        with progress.phase("evaluate", total=200) as phase:
            phase.advance(1)
        progress.step(1, {"reward": 1.2, "reward/format": 0.9}, {"play": 1.5, "learn": 2.0})

It shows numbers by their names and computes none but means and the remaining time.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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

STAGES = (
    "play",
    "mask",
    "score",
    "learn",
    "publish",
)  # of a step: shown while they run, without a line of their own
REFRESH_S = 0.2
LAST = 8  # steps in the live table
BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Phase:
    """Something that takes a while. `total` None: it cannot be counted."""

    name: str
    total: float | None = None
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.spinner = Spinner("dots")

    def advance(self, count: float = 1) -> None:
        self.done += count

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


@dataclass(frozen=True)
class Step:
    number: int
    metrics: dict[str, float]
    seconds: dict[str, float]
    at: float  # monotonic seconds when it was reported


class Screen(Console):
    """A console on which printing and refreshing take turns.

    rich works out where the cursor must go before it writes: a line printed while another thread refreshes the live
    part would overwrite a line above it. `print` to standard output goes through here too while the display is live.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.turn = threading.RLock()
        super().__init__(highlight=False, **kwargs)

    def print(self, *objects: Any, **kwargs: Any) -> None:
        with self.turn:
            super().print(*objects, **kwargs)


class Progress:
    """Open with `Progress.open`; may be called from any thread. `live` False writes plain lines."""

    def __init__(self, total_steps: int, title: str, console: Screen, live: bool) -> None:
        self.total_steps = total_steps
        self.title = title
        self.console = console
        self._began = time.monotonic()
        self._steps: list[Step] = []
        self._phases: list[Phase] = []
        self._lock = console.turn
        self._live = (
            Live(console=console, get_renderable=self.screen, auto_refresh=False) if live else None
        )
        self._rest = threading.Event()
        self._refresher: threading.Thread | None = None

    @classmethod
    def open(cls, total_steps: int, title: str) -> Progress:
        """A started display: live if standard output is a terminal that can move its cursor."""
        console = Screen()
        live = sys.stdout.isatty() and not console.is_dumb_terminal
        progress = cls(total_steps, title, console, live)
        if live:
            progress._wake()
        else:
            progress._line(escape(title))
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
        """Leave the last screen standing and give the terminal back; may be called twice."""
        self._rest.set()
        if self._refresher is not None:
            self._refresher.join()
            self._refresher = None
        if self._live is not None:
            with self._lock:
                self._live.stop()

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Phase]:
        """Shows `name` while it lasts, and a line with its seconds after it (none for the stages of a step)."""
        phase = Phase(name, total)
        self._wake()
        with self._lock:
            self._phases.append(phase)
        try:
            yield phase
        except BaseException:
            self._line(f"[red]✗[/] {escape(name)} failed after {duration(phase.seconds)}")
            raise
        else:
            if name not in STAGES:
                self._line(f"[green]✓[/] {escape(name)} [dim]{duration(phase.seconds)}[/]")
        finally:
            with self._lock:
                self._phases.remove(phase)

    def step(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """A finished step; on a terminal it enters the table, else it is one line."""
        self._wake()
        with self._lock:
            self._steps.append(Step(step, dict(metrics), dict(seconds), time.monotonic()))
        if self._live is None:
            self._line(escape(step_line(self._steps[-1], self.total_steps, self.remaining())))

    def note(self, text: str) -> None:
        """One line that stays."""
        self._line(escape(text))

    def table(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        """A table that stays, below the live display, which rests until the next phase or step.

        A first row whose first cell is empty is the head.
        """
        head, body = (rows[0], rows[1:]) if rows and rows[0][0] == "" else (None, rows)
        table = Table(
            title=escape(title), title_justify="left", box=box.ROUNDED, show_header=head is not None
        )
        for column in range(max(map(len, rows), default=0)):
            name = escape(head[column]) if head and column < len(head) else ""
            table.add_column(name, justify="left" if column == 0 else "right")
        for row in body:
            table.add_row(*map(escape, row))
        self.close()
        self.console.print(table)

    def remaining(self) -> float | None:
        """Estimated seconds to the last step: wall time of a step so far, evaluation and checkpoints included."""
        if not self._steps:
            return None
        first = self._steps[0]
        last = self._steps[-1]
        own = sum(first.seconds.values())
        each = (last.at - first.at) / (len(self._steps) - 1) if len(self._steps) > 1 else own
        return each * (self.total_steps - last.number)

    def screen(self) -> RenderableType:
        """The live part: header, bar of all steps, running phases, last steps, curve of the reward."""
        with self._lock:
            parts: list[RenderableType] = [self._overall()]
            if self._phases:
                parts.append(_phase_rows(self._phases, _bar_width(self.console)))
            if self._steps:
                parts += [step_table(self._steps[-LAST:], self.console.width - 4), self._curve()]
        return Panel(
            Group(*parts),
            title=f"[bold]{escape(self.title)}[/]",
            title_align="left",
            border_style="cyan",
        )

    def _overall(self) -> RenderableType:
        done = self._steps[-1].number if self._steps else 0
        left = self.remaining()
        grid = Table.grid(padding=(0, 1))
        if not self.total_steps:
            return Text(duration(time.monotonic() - self._began))
        label = f"step [bold]{done}[/] of {self.total_steps}"
        eta = "" if left is None else f", about [bold]{duration(left)}[/] left"
        spent = duration(time.monotonic() - self._began)
        grid.add_row(
            label, ProgressBar(self.total_steps, done, width=_bar_width(self.console)), spent + eta
        )
        return grid

    def _curve(self) -> RenderableType:
        rewards = [s.metrics["reward"] for s in self._steps if "reward" in s.metrics]
        if not rewards:
            return Text()
        width = max(10, min(60, self.console.width - 42))
        ends = f"{_mean(rewards[:10]):.3f} → {_mean(rewards[-10:]):.3f}"
        return Text.from_markup(
            f"reward [green]{sparkline(rewards, width)}[/] {ends} [dim](means of 10)[/]"
        )

    def _wake(self) -> None:
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
                # One write, no wrapping: a log line is one line, however narrow the log's idea of a terminal.
                print(Text.from_markup(markup).plain, flush=True)


def step_line(step: Step, total_steps: int, left: float | None) -> str:
    """A step as one plain line: reward, its parts, gap, J&F, seconds, remaining time."""
    m = step.metrics
    words = [f"step {step.number:>{len(str(total_steps))}}/{total_steps}"]
    parts = " ".join(
        f"{k.removeprefix('reward/')} {m[k]:.2f}" for k in m if k.startswith("reward/")
    )
    if "reward" in m:
        words.append(f"reward {m['reward']:.3f}" + (f" ({parts})" if parts else ""))
    elif "loss" in m:
        words.append(f"loss {m['loss']:.4f}")
    words += [f"{head} {value}" for head, value in _extras(m)]
    stages = " ".join(f"{k} {v:.1f}" for k, v in step.seconds.items())
    words.append(f"{sum(step.seconds.values()):.1f} s ({stages})")
    return "  ".join(words + ([f"{duration(left)} left"] if left is not None else []))


def step_table(steps: Sequence[Step], width: int) -> Table:
    """The last steps, newest last; columns that do not fit into `width` characters are left out, the last first."""
    names = list(dict.fromkeys(k for s in steps for k in s.metrics if k.startswith("reward/")))
    stages = list(dict.fromkeys(k for s in steps for k in s.seconds))
    rows = [
        {"step": str(s.number)}
        | ({"reward": f"{s.metrics['reward']:.3f}"} if "reward" in s.metrics else {})
        | {n.removeprefix("reward/"): f"{s.metrics[n]:.2f}" for n in names if n in s.metrics}
        | dict(_extras(s.metrics))
        | {"seconds": f"{sum(s.seconds.values()):.1f}"}
        | {n: f"{s.seconds[n]:.1f}" for n in stages if n in s.seconds}
        for s in steps
    ]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    used = 0
    heads = []
    for head in dict.fromkeys(h for row in rows for h in row):
        used += 3 + max(len(head), *(len(row.get(head, "")) for row in rows))
        if used > width:
            break
        heads.append(head)
        table.add_column(
            head, justify="right", no_wrap=True, style="bold" if head == "reward" else ""
        )
    for row in rows:
        table.add_row(*(row.get(h, "") for h in heads))
    return table


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as a row of at most `width` bars from lowest to highest; neighbours are averaged when there are more."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else [0]
    means = [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]
    low = min(means, default=0.0)
    high = max(means, default=0.0)
    span = high - low
    return "".join(
        BARS[round((m - low) / span * (len(BARS) - 1))] if span > 0 else BARS[0] for m in means
    )


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _extras(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The other figures worth a column: log-prob gap, J&F, tokens a second."""
    shown = []
    for key, head, form in (
        ("logprob_gap_mean", "gap", "{:.1e}"),
        ("jf", "J&F", "{:.1f}"),
        ("J&F", "J&F", "{:.1f}"),
        ("tokens_per_second", "tok/s", "{:.0f}"),
    ):
        if key in metrics:
            shown.append((head, form.format(metrics[key])))
    return shown


def _phase_rows(phases: Sequence[Phase], width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for p in phases:
        bar: RenderableType = ProgressBar(p.total, p.done, width=width) if p.total else ""
        count = f"{p.done:g}/{p.total:g}" if p.total else ""
        grid.add_row(p.spinner, escape(p.name), bar, count, f"[dim]{duration(p.seconds)}[/]")
    return grid


def _bar_width(console: Console) -> int:
    return max(5, min(30, console.width - 60))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
