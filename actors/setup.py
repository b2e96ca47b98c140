"""Objects built alike on the driver and in actors, from one configuration."""

from __future__ import annotations

import systems
from configs.load import resolve
from configs.schema import Config
from core.types import System
from models.families import family_of


def make_system(cfg: Config) -> System:
    """Return the configured system, made for the images of the configured policy.

    Raises:
        ValueError: an unknown system, an unfit option, or a policy of an unsupported family.
    """
    family = family_of(resolve(cfg.policy.path))
    return systems.make(cfg.system.name, dict(cfg.system.options), family.vision)
