"""Runs a recipe in two processes with divided weights, killed at random moments, one or both, then once more without.

Usage: python -m tests.parallel.killed FOLDER KILLS. Prints JSON: how often one was killed, and both; the runs are in
FOLDER/killed and FOLDER/whole.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import surgery
from surgery.recipe import Recipe
from surgery.store import filling
from tests.run.killed import MARKS, asked

PROCESSES = 2
PATIENCE = 60.0
"""Seconds in which a process has to notice that the other one is gone."""


def start(given: Recipe, out: Path) -> list[int]:
    """Run in forked children, which have all libraries loaded; return their process ids."""
    store, resume = Path(tempfile.mkdtemp()) / "store", out.exists()
    return [_forked(lambda number=number: _work(given, out, resume, store, number)) for number in range(PROCESSES)]


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def _work(given: Recipe, out: Path, resume: bool, store: Path, number: int) -> None:
    filling.SHARD_BYTES, filling.SECONDS_BETWEEN_WRITES = 4096, 0.0
    held = dist.FileStore(str(store), PROCESSES)
    dist.init_process_group(
        "gloo", store=held, rank=number, world_size=PROCESSES, timeout=timedelta(seconds=10 * PATIENCE)
    )
    surgery.apply(given, out, resume=resume, shard=True)


def kill_soon(children: list[int], out: Path, mark: str, chance: random.Random) -> bool:
    """Kill one child or all that have come to a mark, in the middle of whatever they do then; whether it was one."""
    while not any(out.glob(mark)) and all(map(_runs, children)):
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.4))
    victims = chance.choice([[chance.choice(children)], children])
    for child in victims:
        os.kill(child, signal.SIGKILL)
    return len(victims) == 1


def _runs(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def ended(children: list[int], patience: float) -> list[int]:
    """The statuses of children; none may take longer than `patience` to end after another one has."""
    while all(map(_runs, children)):
        time.sleep(0.01)
    late = time.monotonic() + patience
    while any(map(_runs, children)):
        assert time.monotonic() < late, "a process waits for one that is gone"
        time.sleep(0.01)
    return [os.waitpid(child, 0)[1] for child in children]


def main() -> None:
    """Run both. The parent computes nothing after its pipeline is saved: a fork must not copy a thread pool in use."""
    torch.set_num_threads(1)
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(exist_ok=True)
    given, chance = asked(folder), random.Random(0)
    found = {"one": 0, "both": 0}
    while True:
        children, killed = start(given, folder / "killed"), sum(found.values())
        if killed < kills:
            mark = MARKS[killed * len(MARKS) // kills]
            found["one" if kill_soon(children, folder / "killed", mark, chance) else "both"] += 1
        statuses = ended(children, PATIENCE)
        if killed >= kills:
            break
    assert statuses == ended(start(given, folder / "whole"), PATIENCE) == PROCESSES * [0], statuses
    print(json.dumps(found))


if __name__ == "__main__":
    main()
