"""`surgery.json`: what an artifact is of, under a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from surgery.artifact.structure import Structure
from surgery.config import Config
from surgery.errors import ArtifactError, in_one_line
from surgery.kinds import UNKNOWN
from surgery.rewriting.edit import AnyEdit

DESCRIPTION = "surgery.json"
FORMAT: Literal[3] = 3
LARGEST = 64 * 2**20
"""Bytes of `surgery.json`; that of a model of 14 B parameters with every block edited has less than one MB."""
SHA256 = r"^[0-9a-f]{64}$"


class WeightsFile(Config):
    """A safetensors file of an artifact.

    Attributes:
        name: in the folder; one of several says which of how many it is.
        size: in bytes.
        sha256: of its content.
        header_sha256: of the part that says which tensors it has, which is checked before memory is taken for them.
    """

    name: str = Field(pattern=r"^model(-\d{5}-of-\d{5})?\.safetensors$")
    size: int = Field(ge=8)
    sha256: str = Field(pattern=SHA256)
    header_sha256: str = Field(pattern=SHA256)


class Description(Config):
    """`surgery.json`.

    Attributes:
        format: version of this layout.
        model_class: the name of the class, of diffusers if there is a `base_config`.
        base_config: what diffusers' `from_config` takes; None of a class of the user's own.
        structure: modules and their attributes before the edits, of a class of the user's own.
        commits: the edits of each rewrite of the base model, in order.
        weights: the files of the weights.
    """

    format: Literal[3] = FORMAT
    model_class: str
    base_config: dict[str, Any] | None
    structure: Structure | None
    commits: tuple[tuple[AnyEdit, ...], ...]
    weights: tuple[WeightsFile, ...] = Field(min_length=1)


def folder_of(given: Any) -> Path:
    """The folder that a caller has named.

    Raises:
        ArtifactError: it is no path.
    """
    named = isinstance(given, str | os.PathLike) and isinstance(os.fspath(given), str)
    if not named or not os.fspath(given) or "\0" in os.fspath(given):  # an empty one would be the current folder
        words = " ".join(repr(given).split())[:80]
        raise ArtifactError(f"{words} is no path; name a folder, such as 'student'")
    return Path(given)


def is_artifact(folder: str | Path) -> bool:
    """Whether `folder` was written by `save`."""
    return (Path(folder) / DESCRIPTION).is_file()


def signed(content: Mapping[str, Any]) -> bytes:
    """The text of `surgery.json` with `content`, and its checksum."""
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2).encode()


def read_description(folder: Path) -> Description:
    """The description in `folder`.

    Raises:
        ArtifactError: it is missing, altered, or of another version.
    """
    path = folder / DESCRIPTION
    with open_regular(path) as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ArtifactError(f"{path}: is larger than any description; name a folder written by surgery.save")
    try:
        content = json.loads(text)
        return _validated(path, content)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == UNKNOWN and "unknown kind" in first["msg"]:
            advice = "or pass its class: surgery.load(..., operators=[...])"
            raise ArtifactError(f"{path}: {first['msg']}, {advice}") from None
        where = ".".join(map(str, first["loc"]))
        raise altered(path, first["msg"] + (f" at {where}" if where else "")) from error
    except ArtifactError:
        raise
    except Exception as error:  # values that are wrong in ways of their own, such as text that is no UTF-8
        raise altered(path, in_one_line(error)) from error


def open_regular(path: Path) -> BinaryIO:
    """The file at `path` for reading.

    Raises:
        ArtifactError: it is missing, or no regular file, such as a pipe, which would be waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{path}: cannot be read ({reason}); name a folder written by surgery.save") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path}: is no regular file; name a folder written by surgery.save")
    return os.fdopen(descriptor, "rb")


def _validated(path: Path, content: Any) -> Description:
    if not isinstance(content, dict):
        raise altered(path, "it is no JSON object")
    checksum = content.pop("checksum", None)
    if content.get("format") in (1, 2):
        raise ArtifactError(
            f"{path}: was written by an older surgery (format {content['format']}, this one reads {FORMAT}); "
            "load it there, or make it again"
        )
    description = Description.model_validate(content)
    if checksum != _checksum(content):
        raise altered(path, "its checksum does not match its content")
    return description


def _checksum(content: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON content, whatever its layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def altered(path: Path, why: str) -> ArtifactError:
    """The error for a file that is not as it was saved."""
    return ArtifactError(f"{path}: truncated or altered: {why[:300]}; copy or make it again")
