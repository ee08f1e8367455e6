"""A folder in which one process, or one group of them, runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from surgery.errors import RecipeError
from surgery.files import require_folder
from surgery.parallel.group import by_first, is_first


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep other runs out of the folder at `path`, which is made, until the block or the process ends.

    Raises:
        RecipeError: another one does, or nothing can be written there.
    """
    descriptor = by_first(partial(_lock, Path(path)))
    try:
        yield
    finally:
        if descriptor is not None and is_first():
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """Lock `folder` until the descriptor that this returns is closed."""
    require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # Windows locks no folders
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RecipeError(
            f"{folder}: another process runs in this folder; wait for it, or choose another --out"
        ) from None
    return descriptor
