"""Settings: what a field declares, what the one checker refuses, and how it says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from core.settings import (
    bound_problems,
    check_bounds,
    fits,
    identity,
    make_settings,
    section,
    setting,
    settings_of,
    spell,
    unknown_name,
)


@dataclass(frozen=True)
class Options:
    prompt: Literal["full", "short"] = setting("full", help="wording of the questions")
    frames: int = setting(16, help="frames shown", least=1)
    share: float = setting(0.5, above=0, most=1)
    rates: tuple[float, float] = setting((0.9, 0.99), least=0, below=1)
    names: list[str] = setting(["a"], help="some names")
    weights: Literal["paper"] | Mapping[str, float] = "paper"


@dataclass
class Learner:
    rate: float = setting(1e-3, above=0)
    workers: int = setting(1, least=1, identifies=())


@dataclass
class Tree:
    name: str = setting("run", identifies=())
    seed: int = setting(0, identifies=("run", "predictions"))
    options: dict[str, Any] = field(default_factory=dict)
    learner: Learner = section(Learner, identifies=("run",))


def test_missing_keys_keep_their_default() -> None:
    made = make_settings(Options, {"frames": 4, "share": 1}, "system.options")
    assert made == Options(frames=4, share=1)


def test_a_list_is_copied_for_each_instance() -> None:
    first = Options()
    first.names.append("b")
    assert Options().names == ["a"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"frame": 1},
            "options.frame is unknown; did you mean 'frames'? Choose from: prompt, frames, share",
        ),
        ({"frames": "8"}, "options.frames='8' (str): expected a whole number"),
        ({"frames": True}, "options.frames=True (bool): expected a whole number"),
        ({"frames": 0}, "options.frames=0: must be at least 1"),
        ({"share": 0}, "options.share=0: must be above 0 and at most 1"),
        ({"share": math.nan}, "options.share=nan: must be finite"),
        ({"rates": (0.5, math.nan)}, "options.rates=(0.5, nan): must be finite"),
        ({"weights": {"a": math.inf}}, "options.weights={'a': inf}: must be finite"),
        ({"rates": (0.5, 1.0)}, "options.rates=(0.5, 1.0): must be at least 0 and below 1"),
        ({"rates": [0.5]}, "expected a list of a number and a number"),
        ({"names": [1]}, "expected a list, each item text"),
        (
            {"prompt": "shrt"},
            "options.prompt='shrt' (str): expected one of full | short (did you mean short?)",
        ),
        ({"weights": "papers"}, "expected one of paper or a mapping to a number"),
        ({"weights": {"a": "b"}}, "expected one of paper or a mapping to a number"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make_settings(Options, values, "options")
    assert message in str(error.value)


def test_all_bounds_are_reported_at_once() -> None:
    tree = Tree(learner=Learner(rate=0.0, workers=0))
    problems = ["learner.rate=0.0: must be above 0", "learner.workers=0: must be at least 1"]
    assert list(bound_problems(tree)) == problems
    with pytest.raises(ValueError) as error:
        check_bounds(tree)
    assert str(error.value).splitlines() == problems


def test_settings_are_listed_with_all_that_their_field_declares() -> None:
    found = {each.key: each for each in settings_of(Options())}
    assert list(found) == ["prompt", "frames", "share", "rates", "names", "weights"]
    assert found["frames"].value == 16
    assert found["frames"].type is int
    assert found["frames"].help == "frames shown"
    assert str(found["frames"].bounds) == "at least 1"
    assert [each.key for each in settings_of(Tree())] == [
        "name",
        "seed",
        "options",
        "learner.rate",
        "learner.workers",
    ]


def test_identity_by_field_and_by_section() -> None:
    tree = Tree(seed=3, options={"a": {"b": 1}})
    assert identity(tree, "run") == {"seed": 3, "learner.rate": 1e-3}
    assert identity(tree, "predictions") == {"seed": 3}


def test_a_mapping_identifies_by_its_keys() -> None:
    @dataclass
    class Open:
        options: dict[str, Any] = setting({"a": {"b": 1}, "c": 2}, identifies=("run",))

    assert identity(Open(), "run") == {"options.a.b": 1, "options.c": 2}


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, float, False),
        (1, Literal[1, 2], True),
        (True, Literal[1, 2], False),
        ("1", Literal[1, 2], False),
        ([1, "a"], tuple[int, str], True),
        ((1, 2), tuple[int, str], False),
        (["a"], list[str], True),
        ("a", list[str], False),
        ({"a": 1}, dict[str, int], True),
        ({1: 1}, dict[str, int], False),
        (None, int | None, True),
        (object(), Any, True),
    ],
)
def test_fits(value: Any, hint: Any, right: bool) -> None:
    assert fits(value, hint) is right


def test_spelled_types() -> None:
    assert spell(Literal["a", "b"]) == "one of a | b"
    assert spell(dict[str, float]) == "a mapping to a number"
    assert spell(list[int]) == "a list, each item a whole number"
    assert spell(bool) == "true or false"


def test_unknown_name_without_a_near_one() -> None:
    assert unknown_name("job", "xyz", ["train"]) == "job is unknown. Choose from: train"
