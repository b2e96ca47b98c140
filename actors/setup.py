"""Objects built alike on the driver and in actors, from one configuration."""

from __future__ import annotations

from dataclasses import replace

import systems
from configs.load import resolve
from configs.schema import Config
from core.types import System, Vision
from models.families import family_of


def make_system(cfg: Config) -> System:
    """Return the configured system, made for the images of the configured policy.

    Raises:
        ValueError: an unknown system, an unfit option, or a policy of an unsupported family.
    """
    return systems.make(cfg.system.name, dict(cfg.system.options), vision_of(cfg))


def vision_of(cfg: Config) -> Vision:
    """Return the sizes and coordinates of the configured policy.

    Raises:
        ValueError: a policy of an unsupported family.
    """
    vision = family_of(resolve(cfg.policy.path)).vision
    if cfg.policy.coordinates == "auto":
        return vision
    return replace(vision, coordinates=cfg.policy.coordinates)


def system_message(cfg: Config) -> str:
    """Return the message before the first turn of every dialogue; empty for none.

    `auto` is the system's own message; without one that of the policy's official template.

    Raises:
        ValueError: no message, though the system explains its task in one; or as `make_system`.
    """
    given = cfg.policy.system_message
    own = make_system(cfg).system_message
    if given == "none" and own:
        raise ValueError(
            f"policy.system_message=none: {cfg.system.name} explains its task in that message; "
            "set it to auto, or system.options.instruct=user"
        )
    if given == "auto":
        return own or family_of(resolve(cfg.policy.path)).chat.system
    return "" if given == "none" else given
