"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rich.filesize import decimal

from surgery.errors import RecipeError, SurgeryError


def require_folder(path: Path | None, option: str = "--out") -> None:
    """Check, before any work, that files can be written into the folder `path`, if one is given; nothing is left there.

    Raises:
        RecipeError: they cannot, or `path` is a file.
    """
    if path is not None:
        _require_place(path, path, is_folder=True, option=option)


def require_file(path: Path | None, suffix: str, option: str = "--out") -> None:
    """Check, before any work, that a file of one kind can be written to `path`, if one is given; nothing is left there.

    Raises:
        RecipeError: it cannot, `path` is a folder, or its name does not end in `suffix`.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise RecipeError(f"{option} {path}: name a file that ends in {suffix}, which is what is written")
    _require_place(path, path.parent, is_folder=False, option=option)


def _require_place(path: Path, folder: Path, *, is_folder: bool, option: str) -> None:
    """A file is made in `folder`, or in what is there of its parents, as permissions do not tell all (/proc)."""
    try:
        if path.exists() and path.is_dir() != is_folder:
            raise RecipeError(f"{path}: is a {'file' if is_folder else 'folder'}; choose another {option}")
        with TemporaryFile(dir=next((each for each in (folder, *folder.parents) if each.exists()), folder)):
            pass
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror}); choose another {option}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Raises:
        SurgeryError: the file cannot be written, for example because the disk is full; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise SurgeryError(_reason(path, error, len(content))) from error


def write_json(path: Path, content: Any) -> None:
    """Write plain data to `path` as JSON; raises like `write_atomically`."""
    write_atomically(path, json_text(content))


def json_text(content: Any) -> bytes:
    """Plain data as JSON that a person can read."""
    return json.dumps(content, indent=2).encode() + b"\n"


def json_digest(content: Any) -> str:
    """The SHA-256, in hex, of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Force the file or folder at `path` to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(path: Path, error: OSError, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path.parent}: the disk is full, {path.name} needs {decimal(size)}; free some space and resume"
    return f"{path}: cannot be written ({error.strerror}); choose another folder"
