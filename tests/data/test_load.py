"""The formats of the configuration and the readers are the same."""

from __future__ import annotations

from typing import get_args, get_type_hints

from configs.schema import DataConfig
from data.load import NO_TARGET, READERS


def test_every_format_of_the_configuration_has_a_reader() -> None:
    allowed = get_type_hints(DataConfig)
    assert set(get_args(allowed["format"])) == set(READERS)
    assert get_args(allowed["no_target"]) == NO_TARGET
