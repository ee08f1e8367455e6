"""What is in a folder of pictures: the files, and the text or the label of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import RecipeError

METADATA = "metadata.jsonl"
CAPTION = ".txt"


@dataclass(frozen=True)
class Entry:
    """A file that is taken for a picture, or a folder of frames.

    Attributes:
        path: of it.
        text: its caption; None without.
        label: number of its class; None without.
    """

    path: Path
    text: str | None = None
    label: int | None = None


def captioned(folder: Path, paths: Sequence[Path], is_picture: Callable[[Path], bool]) -> list[Entry]:
    """`paths` in `folder` with the captions in their text files; if there is a `metadata.jsonl`, what that lists instead.

    Raises:
        RecipeError: a caption cannot be read, or some pictures have one and others have not.
    """
    if (folder / METADATA).is_file():
        return _listed(folder / METADATA)
    entries = [Entry(path, _text(path.with_name(f"{path.stem}{CAPTION}"))) for path in paths]
    if any(entry.text is not None for entry in entries):
        for entry in entries:
            if entry.text is None and is_picture(entry.path):
                name = f"{entry.path.stem}{CAPTION}"
                raise RecipeError(f"{entry.path}: has no {name}, as others have; write one, or remove the picture")
    return entries


def contents(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """The files in `folder` that may be pictures, and its folders, each by name; hidden ones are left out.

    Raises:
        RecipeError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecipeError(f"{folder}: is no folder; check the path given as `data`")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in paths if path.is_file() and path.suffix != CAPTION and path.name != METADATA]
    return files, [path for path in paths if path.is_dir()]


def identity(folder: Path, entries: Iterable[Entry]) -> dict[str, str]:
    """What tells these pictures from others: SHA-256 of names and contents of the files, and of texts and labels."""
    images, captions = hashlib.sha256(), hashlib.sha256()
    for entry in entries:
        for path in contents(entry.path)[0] if entry.path.is_dir() else [entry.path]:
            images.update(f"{Path(os.path.relpath(path, folder)).as_posix()}\0".encode())
            with path.open("rb") as file:
                images.update(hashlib.file_digest(file, "sha256").digest())
        captions.update(json.dumps([entry.text, entry.label]).encode())
    return {"images": images.hexdigest(), "captions": captions.hexdigest()}


def _text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text ({error}); save it so") from error


def _listed(metadata: Path) -> list[Entry]:
    lines = (_text(metadata) or "").splitlines()
    return [_of_line(metadata, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _of_line(metadata: Path, number: int, line: str) -> Entry:
    try:
        row = json.loads(line)
        name, text = row["file_name"], row["text"]
        path = metadata.parent / name
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f'{metadata}:{number}: must be like {{"file_name": "a.png", "text": "a cat"}}') from error
    if not isinstance(text, str):
        raise RecipeError(f"{metadata}:{number}: 'text' must be text")
    if not path.exists():
        raise RecipeError(f"{metadata}:{number}: there is no {name}; remove the line, or add the file")
    return Entry(path, text)
