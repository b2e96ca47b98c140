"""The policy of a learner rank is made as the configuration says."""

from __future__ import annotations

from pathlib import Path

from actors import policies
from configs.schema import Config, MaskConfig
from models.policy.seg_policy import SegOptions, SegPolicy
from tests.models.seg_cases import SEG
from tests.models.tiny_qwen import build


def test_a_policy_that_draws_has_the_options_of_the_mask_section(tmp_path: Path) -> None:
    cfg = Config()
    cfg.mask = MaskConfig(
        f"w{SEG}", calibration=0.5, threshold=0.25, bce=2.0, dice=0.75, points=77, fresh=True
    )
    policy, reference = policies.load(cfg, build(tmp_path / "policy"), "cpu")
    assert isinstance(policy, SegPolicy)
    assert policy.seg_id == SEG
    assert reference is None
    assert policy.options == SegOptions(
        calibration=0.5, threshold=0.25, bce=2.0, dice=0.75, points=77
    )
