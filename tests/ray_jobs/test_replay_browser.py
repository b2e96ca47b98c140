"""The replay page in a real browser: opened from disk, played, filtered, compared, attacked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ray_jobs.replay import write_site
from tests.browser import Browser, browser, installed
from tests.ray_jobs.replay_run import write_run
from tests.screenshots import take

pytestmark = pytest.mark.skipif(
    installed() is None, reason="no browser is installed: make browser installs Chromium"
)

# What stands at "text" of the page's parts.
MAIN = "document.getElementById('main').textContent"
COUNT = "document.getElementById('count').textContent"
# Shaded tokens by the figure that shades them.
SHADED = """(() => {
    const found = {};
    for (const box of document.querySelectorAll(".tokens")) {
        const [name] = [...box.classList].filter((each) => each.startsWith("by-"));
        found[name] = (found[name] || 0) + box.children.length;
    }
    return found;
})()"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs, whose page is in the first one."""
    home = tmp_path_factory.mktemp("replay browser")
    first = write_run(home, "first")
    write_site([first, write_run(home, "second", bonus=0.25)])
    return home / "runs"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(started: Browser, home: Path) -> Browser:
    started.errors.clear()
    started.requests.clear()
    started.open((home / "first/replay/index.html").as_uri())
    return started


def choose(tab: Browser, name: str, value: str) -> None:
    """Set a filter as a hand does."""
    tab.value(
        f"(() => {{ const field = document.getElementById('{name}'); field.value = {value!r};"
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_it_opens_from_disk_and_asks_for_nothing_else(tab: Browser, home: Path) -> None:
    assert tab.value(COUNT) == "40 of 40 episodes"
    for key in ("j", "g", "s", "c", "o"):
        tab.press(key)
        tab.value("new Promise((done) => setTimeout(done, 300))")
    allowed = (f"{home.as_uri()}/", "data:", "about:")
    assert [address for address in tab.requests if not address.startswith(allowed)] == []
    assert tab.errors == []


def test_pictures_appear_and_the_video_plays(tab: Browser) -> None:
    tab.press("j")
    tab.until("page.stage && page.stage.image(page.stage.pictures.get(3)).naturalWidth === 90")
    tab.until("[...document.querySelectorAll('.thumb img')].every((image) => image.naturalWidth)")
    assert tab.value("page.stage.frames[page.stage.at]") == 3
    tab.press("ArrowRight")
    assert tab.value("page.stage.frames[page.stage.at]") == 4
    tab.press(" ")
    tab.until("page.stage.at === 7")
    tab.until("page.stage.at === 1")


def test_masks_are_decoded_as_they_were_encoded(tab: Browser) -> None:
    choose(tab, "source", "evaluation at 3, greedy")
    tab.press("j")
    # The last of two repeats is the one whose masks are kept.
    tab.press("j")
    tab.until("page.stage && page.stage.masks.size === 7")
    # The square of 20 x 20 pixels at frame 3, row by row.
    tab.value("window.mask = masks.decode(page.stage.masks.get(3))")
    tab.value("window.on = [...mask.pixels.keys()].filter((n) => mask.pixels[n])")
    tab.value("window.place = (n) => [n % mask.width, Math.floor(n / mask.width)]")
    found = tab.value("[on.length, place(on[0]), place(on[399]), mask.width, mask.height]")
    assert found == [400, [23, 20], [42, 39], 90, 60]


def test_hostile_words_stay_words(tab: Browser) -> None:
    choose(tab, "search", "onerror")
    assert tab.value(COUNT) == "18 of 40 episodes"
    for key in ("e", "g", "s", "c", "e"):
        tab.press(key)
        tab.until(f"{MAIN}.includes('<script>') && {MAIN}.includes('onerror')")
    assert tab.value("document.title") == "Replay: first and second"
    assert tab.value("document.querySelectorAll('#main script, #main img[src=x]').length") == 0
    # What reverses the words around it is written out.
    assert tab.value(f"{MAIN}.includes('⟨U+202E⟩')")
    assert tab.errors == []


def test_filters_and_order(tab: Browser) -> None:
    choose(tab, "step-from", "2")
    choose(tab, "step-to", "2")
    choose(tab, "reward-from", "1.5")
    choose(tab, "run", "1")
    assert tab.value(COUNT) == "4 of 40 episodes"
    choose(tab, "sort", "reward-")
    assert tab.value("page.list.shown.map((row) => row.reward)") == [2.5, 2.5, 1.5, 1.5]
    choose(tab, "search", "no such words")
    assert tab.value(COUNT) == "0 of 40 episodes"


def test_the_search_reads_answers_on_demand(tab: Browser) -> None:
    choose(tab, "search", "漢字 in step 2")
    assert tab.value(COUNT) == "0 of 40 episodes"
    tab.value("document.getElementById('in-texts').click()")
    tab.until(f"{COUNT} === '2 of 40 episodes'")


def test_tokens_are_shaded_on_demand(tab: Browser) -> None:
    tab.press("j")
    tab.until(f"{MAIN}.includes('turn 2')")
    assert tab.value(SHADED) == {}
    tab.press("t")
    shaded = tab.value(SHADED)
    assert set(shaded) == {"by-log-prob"}
    assert shaded["by-log-prob"] > 10
    tab.press("t")
    assert set(tab.value(SHADED)) == {"by-entropy"}
    token = "document.querySelectorAll('.by-entropy')[1].children[1]"
    assert tab.value(f"{token}.title") == "log-prob -0.100 · entropy 1.000 nats"
    assert tab.value(f"{token}.style.getPropertyValue('--share')") == "0.500"
    tab.press("t")
    assert tab.value(SHADED) == {}


def test_what_was_not_learned_offers_no_entropy(tab: Browser) -> None:
    choose(tab, "search", "onerror")
    tab.press("j")
    tab.until(f"{MAIN}.includes('turn 2')")
    offered = "[...document.querySelectorAll('[data-shading]')].map((button) => button.textContent)"
    assert tab.value(offered) == ["plain", "log-prob"]
    choose(tab, "search", "the red square")
    tab.press("j")
    tab.until(f"{offered}.length === 3")
    tab.value("document.querySelector('[data-shading=entropy]').click()")
    assert set(tab.value(SHADED)) == {"by-entropy"}
    # The choice stays, where there is one.
    choose(tab, "search", "onerror")
    tab.press("j")
    tab.until(f"{offered}.length === 2")
    assert tab.value(SHADED) == {}
    tab.value("settings.tokens = ''")


def test_seconds_of_an_episode(tab: Browser) -> None:
    choose(tab, "sort", "seconds-")
    tab.press("j")
    tab.until(f"{MAIN}.includes('played in 3.5 s') && {MAIN}.includes('scored in 250 ms')")


def test_best_and_worst_of_a_group(tab: Browser) -> None:
    tab.press("j")
    tab.press("b")
    tab.until(f"{MAIN}.includes('reward 2.500')")
    tab.press("w")
    tab.until(f"{MAIN}.includes('reward 0.500')")


def test_two_runs_and_one_sample_over_steps(tab: Browser) -> None:
    tab.press("c")
    tab.until(f"{MAIN}.includes('2 samples of the list are in both runs')")
    tab.press("j")
    tab.press("s")
    tab.until("document.querySelectorAll('#main .two > div').length === 2")
    assert tab.value("document.querySelectorAll('#main .two > div:last-child .card').length") == 4


def test_a_part_that_is_missing_is_named(tab: Browser, home: Path) -> None:
    chunk = home / "first/replay/data/episodes_training_0.js"
    text = chunk.read_bytes()
    chunk.unlink()
    try:
        tab.open((home / "first/replay/index.html").as_uri())
        tab.press("j")
        tab.until(f"{MAIN}.includes('episodes_training_0.js is missing')")
    finally:
        chunk.write_bytes(text)


def test_a_command_takes_a_picture_of_each_view(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    files = take([Path("first"), Path("second")], tmp_path / "new/pictures")
    views = [file.stem for file in files]
    assert views == [
        f"first_{view}" for view in ("overview", "episode", "group", "sample", "compare", "entropy")
    ]
    pictures = set()
    for file in files:
        with Image.open(file) as image:
            assert image.size == (1400, 900)
            pictures.add(image.tobytes())
    assert len(pictures) == 6, "six different views"
