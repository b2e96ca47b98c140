"""Objects that the driver and the actors build alike from one configuration."""

from __future__ import annotations

import systems
from configs.schema import Config
from core.types import System


def make_system(cfg: Config) -> System:
    """Return the system that the configuration names, with its options.

    Raises:
        ValueError: an unknown name, or an option that does not fit.
    """
    return systems.make(cfg.system.name, dict(cfg.system.options))
