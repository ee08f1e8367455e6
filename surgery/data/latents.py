"""Latents that are encoded already."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, JsonValue
from safetensors import SafetensorError, safe_open
from torch import Tensor

from surgery.config import PathText
from surgery.data.base import Data
from surgery.errors import RecipeError
from surgery.store.sample import Sample, require_finite

LATENTS = "latents"


class Latents(Data):
    """Latents in a safetensors file, or in all such files of a folder, as training data.

    The tensor `latents` (N, ...) holds a sample in each row, as the pipeline's scheduler has them; every other tensor
    (N, ...) is a condition, named like a keyword of the model's forward. What is not given is as in the call.

    Attributes:
        path: of the file, or the folder.
        call: keywords of the pipeline for one sample of this size, such as `height`; with a prompt, or a class, by
            default.
    """

    kind: Literal["latents"] = "latents"
    unnamed: ClassVar[str | None] = "path"
    path: PathText
    call: dict[str, JsonValue] = Field(default={})


class LatentRows:
    """The rows of such files as samples, by number, read where they are asked for: a source for a store."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files.

        Raises:
            RecipeError: one cannot be read, or its tensors are not as `Latents` says.
        """
        self._paths = paths
        self._files = [_opened(path) for path in paths]
        self._up_to = list(accumulate(_rows(path, file) for path, file in zip(paths, self._files, strict=True)))

    def __len__(self) -> int:
        return self._up_to[-1]

    def __getitem__(self, number: int) -> Sample:
        index = bisect_right(self._up_to, number)
        file, row = self._files[index], number - (self._up_to[index - 1] if index else 0)
        tensors: dict[str, Tensor] = {name: file.get_slice(name)[row] for name in file.keys()}  # noqa: SIM118
        return require_finite(Sample(tensors.pop(LATENTS), tensors), f"row {row} of {self._paths[index]}")

    def extremes(self) -> set[int]:
        """The numbers of rows that hold the least and the largest of each condition of whole numbers, such as labels."""
        found = set()
        for name in self._files[0].keys():  # noqa: SIM118
            if name != LATENTS and not self[0].conditions[name].is_floating_point():
                values = torch.cat([file.get_tensor(name).reshape(rows, -1) for file, rows in self._counted()])
                found |= {int(values.amin(1).argmin()), int(values.amax(1).argmax())}
        return found

    def _counted(self) -> Iterator[tuple[Any, int]]:
        return zip(self._files, (b - a for a, b in pairwise([0, *self._up_to])), strict=True)

    def identity(self) -> dict[str, str]:
        """What tells them from others: a digest of all files, which are read for it."""
        digest = hashlib.sha256()
        for path in self._paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return {LATENTS: digest.hexdigest()}


def read_latents(latents: Latents) -> LatentRows:
    """The samples in the files.

    Raises:
        RecipeError: there is no such file, or one does not hold them.
    """
    path = Path(latents.path)
    paths = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not paths:
        raise RecipeError(f"{path}: holds no .safetensors file; check the path given as `data`")
    return LatentRows(paths)


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise RecipeError(f"data file {path} does not exist: check the path given as `data`")
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise RecipeError(f"data file {path} cannot be read: {error}") from error


def _rows(path: Path, file: Any) -> int:
    """How many samples a file holds."""
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if LATENTS not in shapes:
        found = ", ".join(sorted(shapes)) or "no tensor"
        raise RecipeError(f"data file {path} has no tensor {LATENTS!r} (found: {found})")
    if len(shapes[LATENTS]) < 2 or not shapes[LATENTS][0]:
        raise RecipeError(f"data file {path}: latents have shape {shapes[LATENTS]}: expected (N, ...) with N > 0")
    count: int = shapes[LATENTS][0]
    for name, shape in shapes.items():
        if not shape or shape[0] != count:
            raise RecipeError(
                f"data file {path}: condition {name!r} has shape {shape}: expected {count} rows, one for each latent"
            )
    return count
