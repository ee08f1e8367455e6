"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from surgery.errors import SurgeryError


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
