"""Sets of files that are whole or not there: written in a hidden folder, then moved, a file with their checksums last.

Of a set `distil-000008` there are `distil-000008.json` and the files that it names, `distil-000008-*.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from surgery.errors import LostError, TrainingError
from surgery.files import json_digest, sync
from surgery.parallel.group import LOST, has_lost


def hidden(path: Path) -> Path:
    """The folder in which a set is written."""
    return path.with_name(f".{path.name}.partial")


def state_of(path: Path) -> Path:
    """The file that has the checksums of the others, and one of its own."""
    return path.with_name(f"{path.name}.json")


def parts_of(path: Path) -> list[Path]:
    """The other files of a set, as far as they are there."""
    return sorted(path.parent.glob(f"{path.name}-*.safetensors"))


def begin(target: Path) -> None:
    """Make the folder in which `target` is written.

    Raises:
        TrainingError: it cannot be made.
    """
    with writing(target):
        shutil.rmtree(hidden(target), ignore_errors=True)
        hidden(target).mkdir(parents=True)


def seal(target: Path, header: dict[str, Any]) -> None:
    """Write the header and the checksums of all files, force them to the disk, and move them to their places.

    Raises:
        TrainingError: they cannot be written.
    """
    folder = hidden(target)
    with writing(target):
        files = {target.with_name(f"{target.name}-{path.name}"): path for path in sorted(folder.glob("*.safetensors"))}
        header = {**header, "files": {place.name: _sha(path) for place, path in files.items()}}
        state = folder / state_of(target).name
        state.write_text(json.dumps({**header, "sha256": json_digest(header)}))
        sync(state)
        remove(target)  # a damaged one of the same name
        for place, path in files.items():
            os.replace(path, place)
        sync(target.parent)
        os.replace(state, state_of(target))
        sync(target.parent)
        shutil.rmtree(folder)


def remove(path: Path) -> None:
    """Remove a set, if there is one; what is left of it after a kill belongs to none."""
    state_of(path).unlink(missing_ok=True)
    for part in parts_of(path):
        part.unlink(missing_ok=True)


def gather(path: Path) -> Path:
    """Make a hidden folder that has the parts of a set and nothing else, without taking room on the disk for them."""
    folder = hidden(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in parts_of(path):
        _linked(part, folder / part.name)
    return folder


def _linked(file: Path, place: Path) -> None:
    """Give a file a second name, or copy it where the disk knows no such thing."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def header_of(path: Path) -> dict[str, Any]:
    """What `seal` has written."""
    found: dict[str, Any] = json.loads(state_of(path).read_text())
    return found


def damage(path: Path, wanted: str, number: int = 0, of: int = 1) -> str | None:
    """Why a set is not as it was sealed, or not in the format that is `wanted`; None if it is.

    Args:
        path: of the set.
        wanted: the "format" of its header.
        number: which part of the files is looked at.
        of: so many parts.
    """
    try:
        header = header_of(path)
        if header.pop("sha256") != json_digest(header):
            return f"the checksum of {state_of(path).name} does not match its content"
        if header["format"] != wanted:
            return f"its format is not {wanted!r}"
        for name, expected in list(header["files"].items())[number::of]:
            if _sha(path.with_name(name)) != expected:
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
        if not state_of(target).exists():
            with suppress(OSError):  # what keeps one from writing may keep one from removing
                remove(target)
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
