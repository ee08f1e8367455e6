"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

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
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise SurgeryError(_reason(path, error, len(content))) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(path: Path, error: OSError, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path.parent}: the disk is full, {path.name} needs {size / 1e6:.1f} MB; free some space and resume"
    return f"{path}: cannot be written ({error.strerror}); choose another folder"
