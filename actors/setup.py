"""Objects that the driver and the actors build alike from one configuration."""

from __future__ import annotations

import systems
from configs.load import resolve
from configs.schema import Config
from core.types import System
from models.families import family_of


def make_system(cfg: Config) -> System:
    """Return the system that the configuration names, with its options, for its policy.

    Raises:
        ValueError: an unknown name, an option that does not fit, or a policy that is not supported.
    """
    vision = family_of(resolve(cfg.policy.path)).vision
    return systems.make(cfg.system.name, dict(cfg.system.options), vision)
