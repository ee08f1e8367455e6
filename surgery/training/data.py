"""Training data held in memory as latents, and the order in which it is visited.

Shapes: N samples, C channels, H x W latent size, B batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from surgery.errors import RecipeError
from surgery.store.order import seeded

DIGITS = "digits"


@dataclass(frozen=True)
class LatentDataset:
    """Latents with their conditions.

    Attributes:
        latents: (N, C, H, W), float32.
        conditions: a tensor (N, ...) by the keyword of the model's forward that takes it, such as `class_labels`.

    Raises:
        RecipeError: a shape is another one.
    """

    latents: Tensor
    conditions: dict[str, Tensor]

    def __post_init__(self) -> None:
        if self.latents.ndim != 4 or len(self.latents) == 0:
            shape = tuple(self.latents.shape)
            raise RecipeError(f"latents have shape {shape}: expected (N, C, H, W) with N > 0")
        for name, values in self.conditions.items():
            if values.ndim == 0 or len(values) != len(self.latents):
                raise RecipeError(
                    f"condition {name!r} has shape {tuple(values.shape)}: expected {len(self.latents)} rows, "
                    "one for each latent"
                )

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, indices: Tensor) -> LatentDataset:
        """The samples at `indices` (B,), in that order."""
        return LatentDataset(self.latents[indices], {k: v[indices] for k, v in self.conditions.items()})


def load_data(source: str | Path) -> LatentDataset:
    """The data set called `source`.

    Args:
        source: "digits", or the path of a .safetensors file with `latents`; every other tensor in it is a condition,
            named like a keyword of the model's forward.

    Raises:
        RecipeError: there is no such data set, or the file does not hold one.
    """
    if str(source) == DIGITS:
        return _digits()
    path = Path(source)
    if path.suffix != ".safetensors":
        raise RecipeError(f"unknown data {str(source)!r}: use {DIGITS!r} or the path of a .safetensors file")
    return _from_file(path)


def _from_file(path: Path) -> LatentDataset:
    if not path.is_file():
        raise RecipeError(f"data file {path} does not exist: check the path given as `data`")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RecipeError(f"data file {path} cannot be read: {error}") from error
    if "latents" not in tensors:
        found = ", ".join(sorted(tensors)) or "no tensor"
        raise RecipeError(f"data file {path} has no tensor 'latents' (found: {found})")
    return LatentDataset(tensors.pop("latents").float(), tensors)


def _digits() -> LatentDataset:
    """The 1,797 handwritten 8x8 digits of the UCI test set, scaled from 0..16 to [-1, 1]."""
    from sklearn.datasets import load_digits  # slow to import, and needed for this data set only

    digits = load_digits()
    images_NHW = torch.from_numpy(digits.images).float() / 8 - 1
    labels_N = torch.from_numpy(digits.target).long()
    return LatentDataset(images_NHW.unsqueeze(1), {"class_labels": labels_N})


def batch_indices(size: int, batch_size: int, step: int, seed: int) -> Tensor:
    """The indices (B,) of the batch at `step`, from seeded permutations of `range(size)`.

    No state is kept: the batch is cut out of the endless row of permutations, one for each epoch, so a resumed training
    visits the samples in the same order. A batch may span epochs.
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    first, last = start // size, (stop - 1) // size
    permutations = [torch.randperm(size, generator=seeded(seed, "epoch", epoch)) for epoch in range(first, last + 1)]
    return torch.cat(permutations)[start - first * size : stop - first * size]
