"""One policy on one benchmark: play, segment, measure, write; and go on where a kill left it.

    python -m ray_jobs.evaluate revseg_tiny policy.path=FOLDER [name=NAME evaluate.protocol=... evaluate.samples=N]

measures a policy (a model folder, a checkpoints/step_N or a run folder) on `data.test_split`, greedily, by the
protocol of the benchmark. For a server: `python -m ray_jobs.submission --help`.

    runs/<name>/evaluate/  evaluation.json  predictions.jsonl      see ray_jobs.record.predictions
                           summary.json  per_expression.csv  overlays/

Expressions are played as fast as the rollout actors can; those that are finished go in chunks to the segmenter actors
and to disk, while others still play. Every figure is made from the lines on disk, so a run in two goes ends with the
table of a run in one. Expressions whose truth is not public (the note "hidden") are predicted and not measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from actors.drawing import Drawn, prompts_of
from actors.rollout import Played
from configs.load import resolve
from configs.schema import Config
from core.evaluation.protocols import BINARY, MERGED, Scored, measure, missing, protocol_of
from core.types import End, Episode, Sample
from ray_jobs.driver.evaluation import EVAL_STEP, Result, best_and_worst, stop_on_failures
from ray_jobs.driver.session import OVERLAYS, Session, run_job, settings
from ray_jobs.record.overlay import keyframes_of
from ray_jobs.record.predictions import (
    FILE,
    Predictions,
    content_of,
    digest_of,
    episode_of,
    line_of,
)
from ray_jobs.record.progress import Phase
from ray_jobs.record.tables import davis_four_annotators, summary_of, write_tables

SAME = (  # settings that decide what is predicted, beside the contents of the weights
    "seed",
    "policy.dtype",
    "data.format",
    "data.test_split",
    "data.no_target",
    "system.",
    "rollout.top_p",
    "rollout.max_model_len",
    "segmenter.kind",
    "segmenter.config",
)
IN_FLIGHT = 2  # chunks that wait for the segmenters before playing waits for them


def run(session: Session) -> dict[str, Any]:
    """Plays what is not there yet, writes all files and shows the table; returns summary.json."""
    cfg = session.cfg
    folder = session.run.path
    progress = session.progress
    session.take_hints(cfg.data.test_split)
    every = session.split(cfg.data.test_split)
    samples = every[: cfg.evaluate.samples or len(every)]
    predictions = Predictions.open(folder, identity(cfg, every))
    waiting = [sample for sample in samples if sample.uid not in predictions.finished]
    if len(waiting) < len(samples):
        there = len(samples) - len(waiting)
        progress.note(
            f"{there} of {len(samples)} expressions were finished before and are not played again"
        )
    if waiting:
        play(session, waiting, predictions, of=len(samples))
    with progress.phase("evaluate: tables"):
        public = [sample for sample in samples if not hidden(sample)]
        rows = list(scored(public, predictions))
        protocol = protocol_of(cfg.evaluate.protocol, cfg.data.format)
        summary = summary_of(samples, rows, predictions, protocol)
        if public and protocol == MERGED:
            summary |= {f"{BINARY}/{name}": summary.get(name, 0.0) for name in ("J", "F", "J&F")}
            summary |= davis_four_annotators(public, predictions)
        write_tables(folder, samples, predictions, summary)
    overlays = draw(session, samples, predictions)
    log(session, summary)
    show(session, summary, f"overlay video: {overlays[0]}" if overlays else "")
    return summary


def identity(cfg: Config, samples: Sequence[Sample]) -> dict[str, Any]:
    """What predictions depend on; predictions of another identity are never mixed with ours."""
    same = {key: value for key, value in settings(cfg).items() if key.startswith(SAME)}
    same["contents of policy.path"] = content_of(resolve(cfg.policy.path))
    if cfg.mask.token:
        same |= {"mask.token": cfg.mask.token, "mask.redraw": cfg.mask.redraw}
    if cfg.segmenter.kind != "grabcut":  # needs no weights
        same["contents of segmenter.path"] = content_of(resolve(cfg.segmenter.path))
    facts = (
        "\n".join(
            [
                s.uid,
                s.query,
                *s.video.frame_names,
                *(t.uid for t in s.targets),
                *(map(str, s.hints.to_json().items()) if s.hints else ()),
            ]
        )
        for s in samples
    )
    return same | {"expressions": len(samples), "contents of the split": digest_of(facts)}


def hidden(sample: Sample) -> bool:
    """True if the truth is not public: the sample's empty targets do not say that there is nothing to find."""
    return sample.notes.hidden


def play(session: Session, samples: Sequence[Sample], predictions: Predictions, of: int) -> None:
    """Plays the samples; whatever is finished is on disk before more than `IN_FLIGHT` further chunks are begun.

    Errors as `stop_on_failures`, counted against `of` expressions; what was finished before stays on disk.
    """
    chunk = session.cfg.evaluate.chunk
    share = session.cfg.rollout.max_failed_share
    rollouts = session.rollouts
    segmenters = session.segmenters
    assert segmenters, "started here, while no other thread asks for them"
    assert session.painters if session.draws else True, "as well"
    failed: list[Episode] = []
    ready: list[Played] = []
    behind: deque[Future[None]] = deque()
    with (
        session.progress.phase("evaluate", total=len(samples)) as phase,
        ThreadPoolExecutor(1) as pool,
    ):
        for group in rollouts.play(samples, group_size=1, temperature=0.0, step=EVAL_STEP):
            ready.append(group)
            failed += [e for e in group.episodes if e.end is End.FAILED]
            stop_on_failures(failed, share, of)
            if len(ready) >= chunk:
                behind.append(pool.submit(finish, session, ready, predictions, phase))
                ready = []
            while len(behind) > IN_FLIGHT or behind and behind[0].done():
                behind.popleft().result()
        behind.append(pool.submit(finish, session, ready, predictions, phase))
        for future in behind:
            future.result()


def finish(
    session: Session, groups: Sequence[Played], predictions: Predictions, phase: Phase
) -> None:
    """Masks, reward and scores of played groups, and their lines on disk. Of a failed episode only the line."""
    split = session.cfg.data.test_split
    drawn: Sequence[Drawn | None] = session.masks(groups) if session.draws else [None] * len(groups)
    scoring = [
        None if hidden(g.sample) else session.rewards.submit(split, g.sample.uid, g.episodes, made)
        for g, made in zip(groups, drawn, strict=True)
    ]
    masks = session.segmenters.segment(
        [
            (g.sample.video, prompts_of(g.episodes[0], made[0] if made else ()))
            for g, made in zip(groups, drawn, strict=True)
        ]
    )
    lines = []
    for group, asked, masks_F in zip(groups, scoring, masks, strict=True):
        sample = group.sample
        [episode] = group.episodes
        reward = session.rewards.collect(asked)[0] if asked else None
        counts = not hidden(sample) and episode.end is not End.FAILED
        scores = measure(sample, masks_F, keyframes_of(episode)).scores if counts else {}
        lines.append(line_of(sample, episode, masks_F, reward, scores))
    if lines:
        predictions.add(lines)
    phase.advance(len(lines))


def scored(samples: Sequence[Sample], predictions: Predictions) -> Iterator[Scored]:
    """All expressions, measured; those without a prediction, or with a failed one, as missing."""
    for sample in samples:
        line = predictions.get(sample.uid)
        if line is None or line["end"] == End.FAILED.value:
            yield missing(sample)
        else:
            yield Scored(sample.uid, sample.kind, bool(sample.targets), line["scores"])


def draw(session: Session, samples: Sequence[Sample], predictions: Predictions) -> list[Any]:
    """Overlay videos of the best and the worst expressions; of the first where there is no public truth."""
    for old in (session.run.path / "overlays").glob("*.mp4"):
        old.unlink()
    bare = [
        _result(sample, line, masks=False) for sample, line in _with_lines(samples, predictions)
    ]
    chosen = {result.sample.uid for result in best_and_worst(bare, OVERLAYS)}
    picked = [sample for sample in samples if sample.uid in chosen]
    results = [
        _result(sample, line, masks=True) for sample, line in _with_lines(picked, predictions)
    ]
    with session.progress.phase("evaluate: overlays"):
        return session.draw(session.run.path, sorted(results, key=lambda result: -result.jf))


def log(session: Session, summary: dict[str, Any]) -> None:
    """Figures and files to MLflow."""
    folder = session.run.path
    session.mlflow.metrics(0, {name: v for name, v in summary.items() if isinstance(v, float)})
    for name in ("config.yaml", "evaluation.json", "summary.json", "per_expression.csv", FILE):
        session.mlflow.artifact(folder / name)
    if (folder / "overlays").is_dir():
        session.mlflow.artifact(folder / "overlays", "overlays")


def show(session: Session, summary: dict[str, Any], more: str) -> None:
    """The table, with the usual figures first."""
    first = [name for name in ("J", "F", "J&F", "gIoU", "cIoU", "reward") if name in summary]
    others = [
        name for name, value in summary.items() if isinstance(value, float) and name not in first
    ]
    rows = [[name, f"{summary[name]:.3f}"] for name in first + others]
    rows += [
        [f"no target: {k}", f"{v:.3f}" if isinstance(v, float) else str(v)]
        for k, v in _no_target(summary)
    ]
    what = f"{summary['expressions']} expressions, greedy, protocol {summary['protocol']}"
    if rows:
        session.progress.table(what, rows)
    else:
        session.progress.note(
            f"{what}: no truth to measure against; python -m ray_jobs.submission makes the zip"
        )
    lost = summary.get("missing", [])
    if lost:
        session.progress.note(
            f"{len(lost)} predictions are missing and count 0 (a new start plays them): {lost[:5]}"
        )
    session.progress.note(
        "; ".join(filter(None, [f"per expression: {session.run.path}/per_expression.csv", more]))
    )


def _no_target(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(summary.get("no_target", {}).items())


def _with_lines(
    samples: Sequence[Sample], predictions: Predictions
) -> Iterator[tuple[Sample, dict[str, Any]]]:
    for sample in samples:
        line = predictions.get(sample.uid)
        if line is not None:
            yield sample, line


def _result(sample: Sample, line: dict[str, Any], masks: bool) -> Result:
    scores = line["scores"]
    kept = tuple(line["masks"]) if masks else ()
    j = scores.get("J", 0.0)
    f = scores.get("F", 0.0)
    return Result(sample, episode_of(line), kept, j, f, line["reward"] or 0.0, line["parts"])


def main(argv: Sequence[str]) -> dict[str, Any]:
    if "-h" in argv or "--help" in argv:
        print(__doc__)  # the keys follow
    with Session.open(argv, part="evaluate") as session:
        return run(session)


if __name__ == "__main__":
    run_job(main)
