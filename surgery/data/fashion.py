"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 28x28 grey pictures of ten kinds of clothes, in idx files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from surgery.data.base import Data
from surgery.errors import RecipeError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts them."""
BYTES = 0x08
"""What idx calls elements of one byte without a sign."""


class FashionMNIST(Data):
    """The 60,000 training pictures of Fashion-MNIST.

    Attributes:
        folder: of its four idx files, as they are or compressed by gzip.
    """

    kind: Literal["fashion-mnist"] = "fashion-mnist"
    unnamed: ClassVar[str | None] = "folder"
    folder: Path = DEBIAN


def read_fashion(folder: Path, part: Literal["train", "t10k"] = "train") -> tuple[Tensor, Tensor]:
    """The pictures (N, 1, H, W) of a part in [-1, 1], float32, and their labels (N,), int64.

    Args:
        folder: of the files.
        part: the 60,000 to train on, or the 10,000 held out.

    Raises:
        RecipeError: a file is missing or damaged.
    """
    images = read_idx(_found(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_found(folder, f"{part}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise RecipeError(f"data: {folder}: {tuple(images.shape)} pictures do not fit {tuple(labels.shape)} labels")
    return images.unsqueeze(1).float() / 127.5 - 1, labels.long()


def read_idx(file: Path) -> Tensor:
    """The numbers in a file of format idx, uint8, in their shape.

    Raises:
        RecipeError: it is no such file, or not whole.
    """
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        zero, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise RecipeError(f"data: {file} cannot be read as idx: {error}") from error
    start = 4 + 4 * rank
    if (zero, kind) != (0, BYTES) or len(content) != start + math.prod(shape):
        raise RecipeError(f"data: {file} is no whole idx file of bytes; copy it again")
    return torch.from_numpy(np.frombuffer(content[start:], np.uint8).reshape(shape).copy())


def _found(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise RecipeError(
        f"data: no {name} in {folder}: install Debian's package dataset-fashion-mnist, or name the folder of the idx "
        "files, data=FashionMNIST(folder=...)"
    )
