"""Commands that several processes share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from surgery.errors import RecipeError
from surgery.parallel.group import size


def default_device(gpus: int | None) -> str:
    """Where a command runs that is told no device: on GPUs if it asks for some, or is shared, and there are any."""
    if gpus is None and size() == 1:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def starts_processes(gpus: int | None, device: str | None, log_dir: Path | None = None) -> bool:
    """Whether the command is to be repeated in processes of its own; they are told of each other by their environment.

    Raises:
        RecipeError: there cannot be so many, or logs of them are asked for and there are none.
    """
    if log_dir is not None and "WORLD_SIZE" not in os.environ and (gpus or 1) == 1:
        raise RecipeError("--log-dir: one process alone has the terminal; add --gpus, or leave it out")
    if gpus is None or "WORLD_SIZE" in os.environ:
        return False
    if gpus < 1:
        raise RecipeError(f"--gpus {gpus}: name at least 1")
    import torch

    found = torch.cuda.device_count()
    if found and device != "cpu" and gpus > found:
        raise RecipeError(f"--gpus {gpus}: this machine has {found}; name at most as many, or --device cpu")
    return gpus > 1


def start(
    command: str, recipe: Path, out: Path, overrides: Sequence[str], device: str | None, gpus: int | None,
    flags: Sequence[str] = (), log_dir: Path | None = None,
) -> None:  # fmt: skip
    """Run a command in as many processes.

    Raises:
        RecipeError: their logs cannot be written.
        ProcessError: one has failed.
    """
    from surgery.files import require_folder
    from surgery.parallel.launch import run_on

    assert gpus is not None
    require_folder(log_dir, "--log-dir")
    placed = [] if device is None else ["--device", device]
    settings = [part for override in overrides for part in ("--set", override)]
    run_on(gpus, [command, str(recipe), "--out", str(out), *settings, *placed, *flags], log_dir)
