"""Every data format: its protocol and its server's zip, on predictions of known quality."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from core.evaluation.metrics import j_and_f
from core.evaluation.protocols import OF_FORMAT, PROTOCOLS, measure, protocol_of
from core.masks import decode_frames, encode_frames
from core.types import End, Episode, Reward, Sample
from data.load import READERS, load_samples
from ray_jobs.driver.measuring import hidden
from ray_jobs.evaluate import scored
from ray_jobs.record.predictions import Predictions, line_of
from ray_jobs.record.tables import davis_four_annotators, summary_of, write_tables
from ray_jobs.submission import LAYOUTS, submission
from tests.data.fixtures import FIXTURES, HEIGHT, NAMES, WIDTH, Expected, ref_youtube_vos


def shifted(masks_FHW: np.ndarray) -> np.ndarray:
    """A nearly right prediction."""
    return np.roll(masks_FHW, 2, axis=2)


def predict(sample: Sample, masks_FHW: np.ndarray, predictions: Predictions) -> None:
    rles = encode_frames(masks_FHW)
    episode = Episode(sample.uid, (), End.DONE)
    if hidden(sample):
        line = line_of(sample, episode, rles, None, {})
    else:
        line = line_of(sample, episode, rles, Reward(1.0, {}), measure(sample, rles).scores)
    predictions.add([line])


def straight(sample: Sample, expected: Expected) -> tuple[float, float]:
    """Return J&F and IoU of the shifted prediction, from the pixels in the fixture."""
    truth = expected.masks_FHW
    assert truth is not None
    listed = sample.notes.frames_listed or sample.video.frame_names
    kept = [i for i, name in enumerate(sample.video.frame_names) if name in listed]
    valid = np.ones((HEIGHT, WIDTH), bool)
    if sample.notes.ignore_F is not None:
        valid = ~decode_frames(sample.notes.ignore_F, HEIGHT, WIDTH)[0]
    pred = (shifted(truth) & valid)[kept]
    gt = (truth & valid)[kept]
    j_F, f_F = j_and_f(pred, gt)
    jf = float((j_F.mean() + f_F.mean()) / 2)
    union = (pred | gt).sum()
    if not union:
        return jf, 1.0
    return jf, float((pred & gt).sum() / union)


@pytest.mark.parametrize("format", FIXTURES)
def test_formats_are_measured(format: str, tmp_path: Path) -> None:
    written = FIXTURES[format](tmp_path / "data")
    samples = load_samples(format, str(written.root), written.split, no_target="keep")
    predictions = Predictions.open(
        tmp_path / "out", {"data.format": format, "expressions": len(samples)}
    )
    for sample in samples:
        masks_FHW = np.zeros((sample.video.num_frames, HEIGHT, WIDTH), bool)
        truth_FHW = written.expected[sample.uid].masks_FHW
        if truth_FHW is not None:
            masks_FHW = shifted(truth_FHW)
        predict(sample, masks_FHW, predictions)
    public = [sample for sample in samples if not hidden(sample)]
    protocol = protocol_of("auto", format)
    summary = summary_of(samples, list(scored(public, predictions)), predictions, protocol)
    write_tables(tmp_path / "out", samples, predictions, summary)

    jfs = []
    ious = []
    jfs_by_kind: dict[str, list[float]] = {}
    for sample in public:
        if sample.targets:
            jf, iou = straight(sample, written.expected[sample.uid])
            jfs.append(jf)
            ious.append(iou)
            jfs_by_kind.setdefault(sample.kind, []).append(jf)
    assert summary["expressions"] == len(samples)
    assert summary["missing"] == []
    assert summary["reward"] == 1.0
    if protocol == "images":
        assert summary["gIoU"] == pytest.approx(100 * np.mean(ious))
    elif protocol == "revos":
        referring = np.mean(jfs_by_kind["referring"])
        reasoning = np.mean(jfs_by_kind["reasoning"])
        assert summary["J&F"] == pytest.approx(100 * (referring + reasoning) / 2)
        assert summary["no_target"]["N-acc"] == 100.0
        assert "R@binary" in summary
    else:
        assert summary["J&F"] == pytest.approx(100 * np.mean(jfs))
    if format == "ref_davis17":
        assert protocol == "davis_4_annotators"
        merged = davis_four_annotators(public, predictions)
        assert 0 < merged["J&F"] < 100
        assert merged["J&F"] != summary["J&F"]
    if format == "longrvos":
        assert {"static/J&F", "dynamic/J&F", "hybrid/J&F"} <= summary.keys()


def test_protocols_belong_to_formats_that_there_are() -> None:
    assert set(OF_FORMAT) <= set(READERS)
    assert set(OF_FORMAT.values()) <= set(PROTOCOLS)
    assert set(LAYOUTS) <= set(READERS)


def test_zip_of_a_split_without_public_truth(tmp_path: Path) -> None:
    """The valid split of Ref-YouTube-VOS: its listed frames, without the videos of test."""
    written = ref_youtube_vos(tmp_path / "data")
    samples = load_samples("ref_youtube_vos", str(written.root), "valid", no_target="keep")
    assert all(hidden(sample) for sample in samples)
    predictions = Predictions.open(
        tmp_path, {"data.format": "ref_youtube_vos", "expressions": len(samples)}
    )
    for sample in samples:
        predict(sample, np.ones((sample.video.num_frames, HEIGHT, WIDTH), bool), predictions)
    summary = summary_of(samples, [], predictions, "mean")
    assert summary == {"expressions": 2, "protocol": "mean", "ends": {"done": 2}}
    with zipfile.ZipFile(submission(tmp_path)) as file:
        assert sorted(file.namelist()) == [
            f"Annotations/0062f687f1/{expression}/{name}.png"
            for expression in "01"
            for name in NAMES
        ]
