"""Trains in processes that are killed while they write checkpoints or soon after, then without interruption.

Usage: python -m tests.training.killed FOLDER. Prints JSON: {"kills": n, "killed": digest, "whole": digest}.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from surgery.training.checkpoint import CheckpointStore, digest
from surgery.training.distil import Distil, distil
from surgery.training.finetune import Finetune, finetune
from tests.training import tiny


def train(folder: Path) -> None:
    """Run both stages and leave a digest of the weights and records in FOLDER/done."""
    student, store = tiny.student(), CheckpointStore(folder)
    data = tiny.data()
    first = Distil(steps=8, batch_size=4, checkpoint_every=1)
    second = Finetune(steps=8, batch_size=4, checkpoint_every=1)
    teacher = tiny.teacher()
    sites = tiny.sites(teacher, student, {tiny.SITE: "l1"})
    records = distil(teacher, student, sites, data, first, seed=0, checkpoints=store)
    records += finetune(tiny.teacher(), student, (tiny.SITE,), data, second, seed=0, checkpoints=store)
    text = json.dumps([asdict(record) for record in records])
    (folder / "done").write_text(digest(student.state_dict(), text))


def start(folder: Path) -> int:
    """Train in a forked child, which has all libraries loaded; return its process id."""
    child = os.fork()
    if child == 0:
        train(folder)
        os._exit(0)
    return child


def wait_for_write(folder: Path) -> None:
    """Return when a checkpoint is being written."""
    while not list(folder.glob(".*.partial")):
        time.sleep(0.001)


def train_with_kills(folder: Path) -> int:
    """Kill the training again and again until it gets through; return how often."""
    chance, kills = random.Random(0), 0
    while True:
        child = start(folder)
        if kills < 5:
            wait_for_write(folder)
            time.sleep(chance.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return kills
        kills += os.WIFSIGNALED(status)


def main() -> None:
    """Run both trainings. The parent computes nothing: a fork must not copy a thread pool in use."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for name in ("killed", "whole"):
        (folder / name).mkdir()
    kills = train_with_kills(folder / "killed")
    os.waitpid(start(folder / "whole"), 0)
    digests = {name: (folder / name / "done").read_text() for name in ("killed", "whole")}
    print(json.dumps({"kills": kills, **digests}))


if __name__ == "__main__":
    main()
