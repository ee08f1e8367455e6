"""How large example inputs are: the model's own sample size where its config gives one."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIDE, FRAMES, LENGTH, TEXT = 32, 4, 64, 77
LONG_TEXT = 512  # to which pipelines of several models pad it, and at which their forward splits text from image
TEXT_LENGTHS = ("max_text_seq_length", "max_sequence_length", "text_len", "num_embeddings")

ModelConfig = Mapping[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Sizes that inputs of one call share.

    Attributes:
        batch: B.
        frames: T, of a video in latent space; 1 of an image.
        height: H, in latent space.
        width: W, in latent space.
        length: of a sequence of one dimension, such as audio.
        text: L, tokens of text.
        patch_frames: size of a patch along T.
        patch_height: along H.
        patch_width: along W.
    """

    batch: int
    frames: int
    height: int
    width: int
    length: int
    text: int
    patch_frames: int
    patch_height: int
    patch_width: int

    @property
    def tokens(self) -> int:
        """N, where every position of the latents is a token."""
        return self.frames * self.height * self.width

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along T, H and W."""
        return (
            self.frames // self.patch_frames,
            self.height // self.patch_height,
            self.width // self.patch_width,
        )

    @property
    def patches(self) -> int:
        """The number of patches."""
        return math.prod(self.grid)


def is_video(config: ModelConfig, class_name: str) -> bool:
    """Whether latents have a time axis: patches have, or the names say so."""
    patch = config.get("patch_size")
    if isinstance(patch, int | list | tuple) and "1D" not in class_name:
        has_time = isinstance(patch, list | tuple) and len(patch) == 3
        return has_time or "patch_size_t" in config or "3D" in class_name
    return "3D" in class_name


def candidate_sizes(config: ModelConfig, class_name: str, batch: int) -> list[Sizes]:
    """The model's own sizes, or usual ones; then some for models with restrictions."""
    natural = _natural(config, class_name, batch)
    small = dataclasses.replace(natural, height=8, width=8, length=8)
    return [
        natural,
        dataclasses.replace(natural, text=LONG_TEXT),
        dataclasses.replace(natural, height=16, width=16, length=16),
        small,
        dataclasses.replace(natural, text=8),
        dataclasses.replace(small, text=8),
        dataclasses.replace(small, text=2, length=2),
    ]


def _natural(config: ModelConfig, class_name: str, batch: int) -> Sizes:
    patch = _patch(config)
    sample = config.get("sample_size")
    side = sample if isinstance(sample, int) else _rounded(SIDE, math.lcm(*patch[1:]))
    frames = _rounded(_frames(config), patch[0]) if is_video(config, class_name) else 1
    text = LONG_TEXT if config.get("image_dim") else TEXT
    return Sizes(
        batch=batch,
        frames=frames,
        height=_number(config, "sample_height", side),
        width=_number(config, "sample_width", side),
        length=sample if isinstance(sample, int) else LENGTH,
        text=next((config[name] for name in TEXT_LENGTHS if config.get(name)), text),
        patch_frames=patch[0],
        patch_height=patch[1],
        patch_width=patch[2],
    )


def _frames(config: ModelConfig) -> int:
    pixels = _number(config, "sample_frames", 0)
    if pixels and config.get("temporal_compression_ratio"):
        return (pixels - 1) // int(config["temporal_compression_ratio"]) + 1
    return pixels or _number(config, "video_length", FRAMES)


def _patch(config: ModelConfig) -> tuple[int, int, int]:
    given = next((v for k, v in config.items() if re.fullmatch("(all_|latent_)?patch_size", k) and v), 1)
    sizes = [given] if isinstance(given, int) else [v for v in given if isinstance(v, int)] or [1]
    time = sizes[0] if len(sizes) == 3 else _number(config, "patch_size_t", 1)
    return time, sizes[-min(2, len(sizes))], sizes[-1]


def _number(config: ModelConfig, name: str, default: int) -> int:
    value = config.get(name)
    return value if isinstance(value, int) else default


def _rounded(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple
