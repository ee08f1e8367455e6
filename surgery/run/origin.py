"""Where and how a run was made."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from surgery.config import Config
from surgery.device import processor
from surgery.parallel.group import size

PACKAGES = ("torch", "diffusers", "surgery")


class Origin(Config):
    """One process that worked on a run.

    Attributes:
        started: in UTC, to the second.
        command: as it was typed.
        folder: the working directory, from which the recipe's relative paths start; "" of an earlier version.
        device: what was trained on.
        processes: how many shared the run.
        threads: of PyTorch on the CPU, in each of them.
        versions: of Python and of packages, by name.
    """

    started: str
    command: str
    folder: str = ""
    device: str
    processes: int = 1
    threads: int
    versions: dict[str, str]


def origin_of(device: str) -> Origin:
    """This process, training on `device`."""
    return Origin(
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        command=_command(),
        folder=str(Path.cwd()),
        device=_words(device),
        processes=size(),
        threads=torch.get_num_threads(),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    )


def _command() -> str:
    program, *arguments = sys.argv or [""]
    path = Path(program)
    called = ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name or "python"]
    return shlex.join([*called, *arguments])


def _words(device: str) -> str:
    """The device and what it is."""
    if torch.device(device).type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return f"{device}, {processor()}" if device == "cpu" else device
