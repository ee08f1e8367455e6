"""Fills a store in processes that are killed at random moments, then another one without interruption.

Usage: python -m tests.store.killed FOLDER KILLS. Prints JSON: {"kills": n, "made": [which samples, in order]}.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from surgery.store import Sample, fill
from surgery.store import filling as filling_module
from tests.store.fake import Made, plain

COUNT = 150
IDENTITY = {"model": "m"}


def fill_slowly(folder: Path) -> None:
    """Fill the store; each sample made is noted in FOLDER.log."""
    filling_module.SHARD_BYTES, filling_module.SECONDS_BETWEEN_WRITES = 1500, 0.0

    def make(number: int) -> Sample:
        with folder.with_suffix(".log").open("a") as log:
            print(number, file=log, flush=True)
        return plain(number)

    fill(folder, IDENTITY, Made(COUNT, make))


def start(folder: Path) -> int:
    """Fill the store in a forked child, which has all libraries loaded; return its process id."""
    child = os.fork()
    if child == 0:
        try:
            fill_slowly(folder)
        finally:
            os._exit(0)
    return child


def kill_soon(child: int, log: Path, chance: random.Random) -> None:
    """Kill a child that has made a few samples, in the middle of whatever it does then."""
    made = count(log) + chance.randint(1, 3)
    while count(log) < made and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)


def count(log: Path) -> int:
    """How many samples were made so far."""
    return log.read_text().count("\n") if log.exists() else 0


def fill_with_kills(folder: Path, kills: int) -> int:
    """Kill the filling so often, or until it gets through; return how often."""
    chance, killed = random.Random(0), 0
    while True:
        child = start(folder)
        if killed < kills:
            kill_soon(child, folder.with_suffix(".log"), chance)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            return killed
        killed += 1


def main() -> None:
    """Fill both. The parent computes nothing: a fork must not copy a thread pool in use."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    kills = fill_with_kills(folder / "killed", int(sys.argv[2]))
    os.waitpid(start(folder / "whole"), 0)
    print(json.dumps({"kills": kills, "made": (folder / "killed.log").read_text().split()}))


if __name__ == "__main__":
    main()
