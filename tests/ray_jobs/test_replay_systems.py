"""The replay page of a run of each system in a real browser: opened, played, filtered, compared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_jobs.replay import write_site
from tests.browser import Browser, browser, installed
from tests.ray_jobs.system_runs import SYSTEMS, write_system_run
from tests.ray_jobs.test_replay_browser import COUNT, MAIN, choose

pytestmark = pytest.mark.skipif(
    installed() is None, reason="no browser is installed: make browser installs Chromium"
)

# Turns of a right answer: VideoSeg-R1's frames come from the frame sampler of the training.
TURNS = {"revseg": 2, "videoseg_r1": 1, "videoseg_o3": 2, "veason_r1": 1}
# Those whose reward reads masks, which the page then shows.
WITH_MASKS = ("videoseg_o3", "veason_r1")
# Those that answer with boxes; the other one draws.
WITH_BOXES = ("revseg", "videoseg_r1", "veason_r1")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The system whose two runs the page shows."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def page(system: str, tab: Browser, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    home = tmp_path_factory.mktemp(system)
    first = write_system_run(home, system, "first")
    second = write_system_run(home, system, "second", steps=1)
    tab.errors.clear()
    tab.requests.clear()
    tab.open(write_site([first, second]).as_uri())
    return tab


def test_a_run_of_each_system_is_seen_played_filtered_and_compared(
    system: str, page: Browser
) -> None:
    assert page.value("document.getElementById('subtitle').textContent") == system
    assert page.value(COUNT) == "20 of 20 episodes"

    # The right answer, turn by turn, with its frames, parts and drawings.
    choose(page, "sort", "reward-")
    choose(page, "end", "done")
    page.press("j")
    page.until(f"{MAIN}.includes('turn {TURNS[system]}')")
    assert not page.value(f"{MAIN}.includes('turn {TURNS[system] + 1}')")
    page.until("[...document.querySelectorAll('.thumb img')].every((image) => image.naturalWidth)")
    assert page.value("document.querySelectorAll('.bars .bar').length") >= 3
    masks = page.value("page.stage.masks.size")
    boxes = page.value("page.stage.places.filter((place) => place.box).length")
    assert bool(masks) == (system in WITH_MASKS)
    assert bool(boxes) == (system in WITH_BOXES)

    page.press(" ")
    page.until("page.stage.at === page.stage.frames.length - 1")
    page.until("page.stage.at === 0")
    page.press(" ")

    # What is hostile stays words.
    choose(page, "sort", "reward+")
    choose(page, "end", "unreadable")
    page.press("j")
    page.until(f"{MAIN}.includes('<script>') && {MAIN}.includes('onerror')")
    assert page.value("document.title") == "Replay: first and second"

    choose(page, "end", "")
    page.press("c")
    page.until(f"{MAIN}.includes('2 samples of the list are in both runs')")
    page.press("s")
    page.until("document.querySelectorAll('#main .two > div').length === 2")
    assert page.errors == []
