"""See the episodes of a run: write its replay page, which opens from disk without a server.

    python -m ray_jobs.replay runs/NAME            runs/NAME/replay/index.html
    python -m ray_jobs.replay runs/NAME runs/OTHER      compares two runs
    python -m ray_jobs.replay runs/NAME --serve         at http://127.0.0.1:8710

Needs neither Ray nor a network. While a run is going on, call it again for its newest steps.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.printable import printable
from ray_jobs.driver.entry import run_job
from ray_jobs.record.kept import FOLDER
from ray_jobs.record.replay_data import write_data, write_script

PAGE = Path(__file__).parent / "replay_page"
# Parts of the page's script, in their order there.
PARTS = ("dom", "masks", "store", "list", "stage", "episode", "views", "main")
PORT = 8710


def main(argv: Sequence[str]) -> None:
    given = parser().parse_args(argv)
    runs = [Path(run) for run in given.runs]
    index = write_site(runs)
    print(f"replay page: {printable(index)}")
    if given.serve:
        serve(runs, given.port)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "python -m ray_jobs.replay",
        description="Write the replay page of a run: every episode, to read and to watch.",
    )
    found.add_argument("runs", nargs="+", metavar="runs/NAME", help="run folders; two to compare")
    found.add_argument("--serve", action="store_true", help="serve the page on this machine")
    found.add_argument(
        "--port", type=int, default=PORT, help=f"port of --serve (default {PORT}; 0: any free one)"
    )
    return found


def write_site(runs: Sequence[Path]) -> Path:
    """Write the replay page of the first run, with the others to compare it to; return its index.

    Raises:
        ValueError: A folder holds no episodes, or may not be written.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise ValueError("one run twice: give two different run folders to compare")
    site = runs[0] / FOLDER
    listed = []
    for run in runs:
        try:
            found = write_data(run)
        except OSError as error:
            raise ValueError(f"{run} cannot be written ({error}): make it writable") from error
        if found["broken"]:
            print(f"{run}: {found['broken']} lines are broken and left out")
        if not found["kept"]:
            print(f"{run}: no pictures were kept (record.episodes=0, or an older run): texts alone")
        listed.append({"base": base_of(site, run / FOLDER)})
    write_page(site)
    write_script(site / "data" / "site.js", listed)
    return site / "index.html"


def write_page(site: Path) -> None:
    """Write the files that are the same for every run, and remove those of another release."""
    texts = [(PAGE / "page" / f"{part}.js").read_text(encoding="utf-8") for part in PARTS]
    shutil.rmtree(site / "page", ignore_errors=True)
    (site / "page").mkdir()
    (site / "page" / "page.js").write_text("\n".join(texts), encoding="utf-8")
    shutil.copy(PAGE / "page" / "style.css", site / "page")
    shutil.copy(PAGE / "index.html", site)


def base_of(site: Path, replay: Path) -> str:
    """Return the address of a run's replay folder as seen from the page, "" for its own."""
    relative = os.path.relpath(replay.resolve(), site.resolve())
    if relative == ".":
        return ""
    return quote(relative.replace(os.sep, "/")) + "/"


def serve(runs: Sequence[Path], port: int) -> None:
    """Serve the page to this machine until it is interrupted.

    Raises:
        ValueError: The port is in use.
    """
    server = server_of(runs, port)
    root = common_root(runs)
    address = quote(str((runs[0] / FOLDER).resolve().relative_to(root)))
    print(f"serving http://127.0.0.1:{server.server_port}/{address}/index.html (Ctrl-C ends it)")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def server_of(runs: Sequence[Path], port: int) -> ThreadingHTTPServer:
    """Return a server of the replay folders of some runs, and of nothing else.

    Raises:
        ValueError: The port is in use.
    """
    folders = [(run / FOLDER).resolve() for run in runs]
    handler = functools.partial(Handler, folders=folders, directory=str(common_root(runs)))
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {port} cannot be used ({error}): give another one with --port; 0 is any free one"
        ) from error


def common_root(runs: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([run.resolve() for run in runs]))


class Handler(SimpleHTTPRequestHandler):
    """Answers with files of the replay folders; the rest of a run is not for browsers."""

    def __init__(self, *arguments: Any, folders: Sequence[Path], **named: Any) -> None:
        self.folders = folders
        super().__init__(*arguments, **named)

    def send_head(self) -> Any:
        file = Path(self.translate_path(self.path)).resolve()
        if not file.is_file() or not any(file.is_relative_to(each) for each in self.folders):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        # A run goes on, and its page is written again.
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing about each request."""


if __name__ == "__main__":
    run_job(main)
