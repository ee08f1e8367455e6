"""Pictures and folders of them for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def halves(height: int, width: int, left: object = "red", right: object = "blue", mode: str = "RGB") -> Image.Image:
    """A picture of two colours, side by side."""
    image = Image.new(mode, (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


def write(folder: Path, *names: str, text: str | None = None) -> Path:
    """Small images of those names in `folder`, each with a caption if `text` is given."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        halves(16, 16).save(path)
        if text is not None:
            path.with_suffix(".txt").write_text(f"{text} {path.stem}\n")
    return folder


def colour(pixels: Tensor, x: float = 0.5, y: float = 0.5) -> list[int]:
    """The colour at a place of (3, H, W), which is given as shares of width and height."""
    height, width = pixels.shape[-2:]
    return ((pixels[:, int(y * height), int(x * width)] + 1) * 127.5).round().int().tolist()


def clip(path: Path, milliseconds: list[int]) -> Path:
    """An animation whose n-th frame has the grey value 20 n."""
    frames = [Image.fromarray(np.full((16, 16), 20 * n, np.uint8)) for n in range(len(milliseconds))]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, **options)
    return path


def greys(pixels: Tensor) -> list[int]:
    """Which frames of a `clip` are in (3, F, H, W)."""
    return torch.round((pixels[0, :, 8, 8] + 1) * 127.5 / 20).int().tolist()
