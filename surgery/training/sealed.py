"""Folders that are whole or not there: written under another name, sealed with checksums, and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from surgery.errors import LostError, TrainingError
from surgery.parallel.group import LOST, has_lost

STATE = "state.json"
"""The file that has the checksums of the others, and one of its own."""


def hidden(path: Path) -> Path:
    """The name under which a folder is written."""
    return path.with_name(f".{path.name}.partial")


def begin(target: Path) -> None:
    """Make the folder that is to be `target`, hidden as yet.

    Raises:
        TrainingError: it cannot be made.
    """
    with writing(target):
        shutil.rmtree(hidden(target), ignore_errors=True)
        hidden(target).mkdir(parents=True)


def seal(target: Path, header: dict[str, Any]) -> None:
    """Write the header and the checksums of all files, force them to the disk, and give the folder its name.

    Raises:
        TrainingError: they cannot be written.
    """
    folder = hidden(target)
    with writing(target):
        header = {**header, "files": {path.name: _sha(path) for path in sorted(folder.glob("*.safetensors"))}}
        (folder / STATE).write_text(json.dumps({**header, "sha256": _sha_of(header)}))
        _sync(folder / STATE)
        _sync(folder)
        remove(target)  # a damaged one of the same name
        os.replace(folder, target)
        _sync(target.parent)


def remove(path: Path) -> None:
    """Remove a folder, if there is one; what is left of it after a kill is hidden."""
    if path.exists():
        aside = path.with_name(f".{path.name}.old.partial")
        os.replace(path, aside)
        shutil.rmtree(aside)


def header_of(path: Path) -> dict[str, Any]:
    """What `seal` has written."""
    found: dict[str, Any] = json.loads((path / STATE).read_text())
    return found


def damage(path: Path, wanted: str, number: int = 0, of: int = 1) -> str | None:
    """Why a folder is not as it was sealed, or not in the format that is `wanted`; None if it is.

    Args:
        path: of the folder.
        wanted: the "format" of its header.
        number: which part of the files is looked at.
        of: so many parts.
    """
    try:
        header = header_of(path)
        if header.pop("sha256") != _sha_of(header):
            return f"the checksum of {STATE} does not match its content"
        if header["format"] != wanted:
            return f"its format is not {wanted!r}"
        for name, expected in list(header["files"].items())[number::of]:
            if _sha(path / name) != expected:
                return f"the checksum of {name} does not match its content"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Says in one line what kept the block from writing `target`.

    Raises:
        TrainingError: the disk did, or the folder.
        LostError: another process has gone.
    """
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        shutil.rmtree(hidden(target), ignore_errors=True)
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        if not isinstance(cause, OSError | SafetensorError):
            raise cause from None
        raise TrainingError(
            f"cannot write checkpoint {target}: {cause}; make room or mend the folder, then resume: the last good "
            "checkpoint is kept"
        ) from error
    except RuntimeError as error:
        if has_lost(error):
            raise LostError(LOST) from error
        raise


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha_of(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
