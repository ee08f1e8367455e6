"""Runs a recipe in processes that are killed at random moments, then once without interruption.

Usage: python -m tests.run.killed FOLDER KILLS. Prints JSON: {"kills": n}; the runs are in FOLDER/killed and FOLDER/whole.
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

import surgery
from surgery.recipe import Distil, Finetune, Images, Recipe
from surgery.store import filling
from tests.run.twins import images, recipe, saved

STEPS = {"steps": 6, "batch_size": 4, "warmup": 0, "checkpoint_every": 1}
MARKS = ("data/wirings", "data/samples/store.json", "checkpoints/distil-*", "checkpoints/finetune-*")


def asked(folder: Path) -> Recipe:
    """A recipe on images of two classes."""
    trained = {"distil": Distil(**STEPS), "finetune": Finetune(**STEPS, lr=1e-2), "evaluate": None}
    pictures, classes = images(folder / "images"), folder / "classes"
    for number, picture in enumerate(sorted(pictures.glob("*.png"))):
        (classes / str(number % 2)).mkdir(parents=True, exist_ok=True)
        picture.rename(classes / str(number % 2) / picture.name)
    return recipe(saved(folder / "pipeline", "DiTPipeline"), Images(folder=str(classes)), **trained)


def start(given: Recipe, out: Path) -> int:
    """Run in a forked child, which has all libraries loaded; return its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            filling.SHARD_BYTES, filling.SECONDS_BETWEEN_WRITES = 4096, 0.0
            surgery.apply(given, out, resume=out.exists())
            code = 0
        finally:
            os._exit(code)
    return child


def kill_soon(child: int, out: Path, mark: str, chance: random.Random) -> None:
    """Kill a child that has come to a mark, in the middle of whatever it does then."""
    while not any(out.glob(mark)) and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.2))
    os.kill(child, signal.SIGKILL)


def main() -> None:
    """Run both. The parent computes nothing after its pipeline is saved: a fork must not copy a thread pool in use."""
    torch.set_num_threads(1)
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    given, chance, killed = asked(folder), random.Random(0), 0
    while True:
        child = start(given, folder / "killed")
        if killed < kills:
            kill_soon(child, folder / "killed", MARKS[killed * len(MARKS) // kills], chance)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            break
        killed += 1
    assert os.waitpid(start(given, folder / "whole"), 0)[1] == status == 0
    print(json.dumps({"kills": killed}))


if __name__ == "__main__":
    main()
