"""The table of kinds against the modules that it stands for."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from configs.schema import SegmenterConfig
from core.segmenters import KINDS
from models.segmenters.base import Segmenter


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_a_module_and_a_class_of_its_name(kind: str) -> None:
    module = importlib.import_module(f"models.segmenters.{kind}")
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    segmenters = [value for value in classes if getattr(value, "kind", None) == kind]
    assert len(segmenters) == 1
    assert Segmenter in segmenters[0].__mro__


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_the_settings_of_its_row(kind: str) -> None:
    load = importlib.import_module(f"models.segmenters.{kind}").load
    row = KINDS[kind]
    assert set(inspect.signature(load).parameters) == {"device", *row.files, *row.settings}


def test_the_configuration_offers_these_kinds() -> None:
    assert set(get_args(get_type_hints(SegmenterConfig)["kind"])) == set(KINDS)


def test_the_table_is_light() -> None:
    """Settings are checked against it before anything is loaded."""
    code = "import sys, core.segmenters; sys.exit('torch' in sys.modules or 'sam2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
