"""Pictures as Pillow gives them, to pixels of a size in RGB."""

from __future__ import annotations

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from surgery.data.buckets import Size

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def pixels_of(image: Image.Image, size: Size) -> Tensor:
    """The pixels in [-1, 1], (3, H, W), of the largest part around the centre that has the aspect of `size`.

    Raises:
        ValueError: the picture has more than 16 bits a pixel and channel, for which no white is known.
    """
    height, width = size
    fitted = ImageOps.fit(_in_rgb(ImageOps.exif_transpose(image)), (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 127.5 - 1


def upright_size(image: Image.Image) -> Size:
    """Height and width of a picture as it is to be looked at."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by a quarter
    return image.size if turned else image.size[::-1]


def _in_rgb(image: Image.Image) -> Image.Image:
    """Grey as RGB, and what is transparent on white."""
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel; save it with 8 or 16")
    if image.mode in SIXTEEN_BITS:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
