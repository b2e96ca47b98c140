"""The prompts of each training step, from one data set or a mix (`data.sets`).

    draws = Draws(training_mix(cfg, samples), cfg.rollout.prompts_per_step)
    samples_P = draws.of_step(1)

The position behind each step goes into its checkpoint, so a resumed run draws what an uninterrupted
one would have drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.splits import set_of
from configs.schema import Config
from core.types import Sample
from data.mixing import Mix, MixedSet, Position, draw, draw_beside, epochs_of, make_mix

# Positions to remember: a step is saved while the next one has been drawn already.
REMEMBERED = 4


def training_mix(cfg: Config, samples: Sequence[Sample]) -> Mix:
    """Return the mix of the training samples, as `actors.splits.read_split` names them.

    Raises:
        ValueError: No sample of a set is left.
    """
    if not cfg.data.sets:
        return make_mix([MixedSet("", samples)], cfg.seed)

    by_set: dict[str, list[Sample]] = {each.label: [] for each in cfg.data.sets}
    for sample in samples:
        by_set[set_of(sample.uid)].append(sample)
    sets = []
    for index, each in enumerate(cfg.data.sets):
        own = by_set[each.label]
        if not own:
            raise ValueError(
                f"data.sets[{index}] ({each.label}): no sample is left to train on; "
                "take the set out of the mix"
            )
        sets.append(MixedSet(each.label, own, each.weight, each.repeats))
    return make_mix(sets, cfg.seed, cfg.data.temperature)


def mix_rows(mix: Mix, num_draws: int) -> list[list[str]]:
    """Return a table of the sets: samples, share, and epochs in `num_draws` draws."""
    epochs_D = epochs_of(num_draws, [len(each.samples) for each in mix.sets], list(mix.shares_D))
    rows = [["data.sets", "samples", "share", f"uses of a sample in {num_draws:,} draws"]]
    for each, share, epochs in zip(mix.sets, mix.shares_D, epochs_D, strict=True):
        rows.append([each.name, f"{len(each.samples):,}", f"{share:.3f}", f"{epochs:.2f}"])
    return rows


class Draws:
    """The prompts of one training step after another.

    Steps are asked for in ascending order. A sample that is set aside is drawn no more from the
    next step on.
    """

    def __init__(
        self,
        mix: Mix,
        count: int,
        step: int = 0,
        position: Position | None = None,
        ahead: int = 0,
    ) -> None:
        """Begin behind a step.

        Args:
            count: Prompts of a step.
            step: The last step drawn; 0 at the start.
            position: The position behind it; by default the one of a run of one data set without
                any sample set aside.
            ahead: Most steps that are drawn before the first of them is learned.
        """
        self._mix = mix
        self._count = count
        self._remembered = REMEMBERED + ahead
        if position is None:
            assert step == 0 or len(mix.sets) == 1, "a mix goes on from the position of its run"
            position = Position({mix.sets[0].name: step * count})
        self._positions: dict[int, Position] = {step: position}

    def of_step(self, step: int) -> list[Sample]:
        """Return the prompts of the step after the last one."""
        samples, self._positions[step] = draw(self._mix, self._positions[step - 1], self._count)
        self._positions.pop(step - self._remembered, None)
        return samples

    def instead(self, step: int, number: int) -> Sample:
        """Return a prompt for the place of another one of a step.

        It is drawn at random, apart from the epochs: they go on as if nothing had been replaced.

        Args:
            number: Number of prompts of the step that were replaced before.
        """
        # What is set aside in the step itself depends on the order in which groups finish.
        before = self._positions[step - 1]
        return draw_beside(self._mix, before.aside, [step, number])

    def set_aside(self, step: int, reasons: Mapping[str, str]) -> None:
        """Leave out samples from the step after `step` on.

        Args:
            step: The last step drawn.
            reasons: A reason for each uid.
        """
        position = self._positions[step]
        aside = {**position.aside, **reasons}
        self._positions[step] = replace(position, aside=aside)

    def after(self, step: int) -> Position:
        """Return the position behind one of the last steps, for its checkpoint."""
        return self._positions[step]
