"""Where the figures of a run go while it runs, besides the lines in its folder: what `surgery apply --log` names.

Each logger is one class in one file, which needs a package of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgery.errors import RecipeError
from surgery.run.loggers.base import Logger
from surgery.run.loggers.tensorboard import TensorBoard
from surgery.run.loggers.trackio import Trackio
from surgery.run.loggers.wandb import WandB
from surgery.wording import did_you_mean

LOGGERS: Mapping[str, type[TensorBoard | WandB | Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
"""By the name of the package that each needs, which is also the extra of surgery that brings it."""


def require_logger(name: str | None) -> None:
    """Check, before a run starts, that there is a logger of that name and its package.

    Raises:
        RecipeError: there is not.
    """
    if name is None:
        return
    if name not in LOGGERS:
        raise RecipeError(f"--log {name}: no such logger{did_you_mean(name, LOGGERS)}")
    if find_spec(name) is None:
        raise RecipeError(f"--log {name}: {name} is not installed; use pip install 'surgery[{name}]'")


def logger_of(name: str | None, folder: Path, recipe: Mapping[str, Any]) -> tuple[Logger, ...]:
    """The logger called `name` for the run in `folder`; none without a name."""
    return () if name is None else (LOGGERS[name](folder, recipe),)
