"""`--profile STEP` of a training: a Chrome trace of one step over all its processes.

All actors keep what they work on from the beginning of the step to its end; then the driver writes
`profile_step_N.json` into the run folder. Whatever goes wrong with it costs the trace, not the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.beat import Beat
from core.files import write_json
from core.pulse import Span, keep_spans, take_spans
from ray_jobs.driver.run import Run
from ray_jobs.record.trace import chrome_trace

FLAG = "--profile"
# Longest wait for the answers of the actors.
ANSWER_S = 15.0


def with_profile(argv: Sequence[str]) -> list[str]:
    """Return a command line with `--profile STEP` written as a setting.

    Raises:
        ValueError: There is no step behind it.
    """
    words = []
    rest = iter(argv)
    for word in rest:
        name, equals, step = word.partition("=")
        if name == FLAG:
            step = step if equals else next(rest, "")
            if not step.isdecimal() or not int(step):
                raise ValueError(f"{FLAG} {step}: give the number of a step, such as {FLAG} 5")
            word = f"record.profile={step}"
        words.append(word)
    return words


@contextmanager
def profiled(run: Run, step: int) -> Iterator[None]:
    """Trace the block if it is the step of `record.profile`."""
    if step != run.cfg.record.profile:
        yield
        return
    watch = run.placement.watch
    watch.ask_all(Beat.keep_spans, ANSWER_S)
    keep_spans()
    yield
    spans = {"driver": take_spans()} | watch.ask_all(Beat.take_spans, ANSWER_S)
    file = run.record.path / f"profile_step_{step}.json"
    run.progress.note(write_profile(file, spans))


def write_profile(file: Path, spans: Mapping[str, Sequence[Span]]) -> str:
    """Write the trace of some processes; return what to say about it."""
    try:
        write_json(file, chrome_trace(spans))
    except OSError as error:
        return f"the profile could not be written: {error}"
    count = sum(len(each) for each in spans.values())
    return (
        f"profile of {len(spans)} processes, {count} spans: {file} (open it in ui.perfetto.dev or "
        "chrome://tracing)"
    )
