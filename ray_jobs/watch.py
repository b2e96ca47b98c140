"""Watch a run in the browser: curves of its figures and what it does now, on a page of its own.

    python -m ray_jobs.watch NAME             http://127.0.0.1:8700/, until Ctrl-C
    python -m ray_jobs.watch NAME --port 0    at any free port

NAME is the run's name below `runs`, or with a slash its folder. Reads the run folder alone, so it
needs no Ray, works for a run that has ended as well, and never disturbs one that goes on. A
training shows the same page by itself with record.port=8700.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from core.printable import printable
from core.settings import nearest
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.live_server import live_server

PORT = 8700
REMEDY = "give another one with --port; 0 is any free one"


def main(argv: Sequence[str]) -> None:
    given = parser().parse_args(argv)
    folder = folder_of(given.run)
    with live_server(folder, given.port, REMEDY) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{printable(folder)} at {address} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "python -m ray_jobs.watch",
        description="Watch a run in the browser: its curves, and what it does now.",
    )
    found.add_argument("run", metavar="NAME", help="runs/NAME, or with a slash a run's folder")
    found.add_argument(
        "--port", type=int, default=PORT, help=f"port on this machine (default {PORT}; 0: any)"
    )
    return found


def folder_of(name: str) -> Path:
    """Return the folder of a run.

    Raises:
        ValueError: There is none, or it is no run's.
    """
    folder = Path(name) if "/" in name else Path("runs") / name
    if not folder.is_dir():
        others = [each.parent.name for each in folder.parent.glob("*/config.yaml")]
        near = nearest(folder.name, others)
        hint = f"did you mean {near}?" if near else "give its name below runs, or its folder"
        raise ValueError(f"{folder}: no such run; {hint}")
    try:
        found = {each.name for each in folder.iterdir()}
    except PermissionError as error:
        raise ValueError(f"{folder}: another user's, and may not be read ({error})") from error
    if not found & {"config.yaml", "metrics.jsonl"}:
        raise ValueError(
            f"{folder}: neither config.yaml nor metrics.jsonl there: give the folder of a training"
        )
    return folder


if __name__ == "__main__":
    run_job(main)
