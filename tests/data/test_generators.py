"""The synthetic world is reached by name only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data.generators import GENERATORS, generator


def test_every_generator_offers_what_the_product_calls() -> None:
    for name in GENERATORS:
        world = generator(name)
        assert callable(world.make)
        assert callable(world.make_ratings)
        assert callable(world.true_ratings)


def test_the_product_imports_no_generator_by_itself() -> None:
    code = "import sys, data.generators, data.load; sys.exit('tiny' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
