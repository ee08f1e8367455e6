"""Makes inputs of a shape.

Shapes are of batch B, frames T, height H, width W, N positions of the latents, L tokens of text and C features. C is
not looked up but told by the layers that an input reaches (see `widths`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from surgery.models.inputs.sizes import ModelConfig, Sizes


@dataclass(frozen=True)
class Given:
    """What an input is made from: the model's config, the sizes of the call, and C."""

    config: ModelConfig
    sizes: Sizes
    width: int

    def size(self, name: str) -> int:
        """A number as text, "C", or an attribute of the sizes."""
        if name == "C":
            return self.width
        return int(name) if name.isdecimal() else int(getattr(self.sizes, name))

    def shape(self, names: str) -> tuple[int, ...]:
        """The sizes with these names, which spaces separate."""
        return tuple(map(self.size, names.split()))


Maker = Callable[[Given], Any]


@dataclass(frozen=True)
class Noise:
    """Stands for a tensor of normal random numbers of a shape, in the model's dtype."""

    shape: tuple[int, ...]


def noise(dims: str) -> Maker:
    """Makes noise of a shape."""
    return lambda given: Noise(given.shape(dims))


def full(value: complex, dims: str = "") -> Maker:
    """Makes a tensor of one value: true, an integer or a float."""
    return lambda given: torch.full(given.shape(dims), value)


def listed(maker: Maker, times: str = "batch") -> Maker:
    """Makes a list of `times` of what `maker` makes."""
    return lambda given: [maker(given) for _ in range(given.size(times))]


def number(name: str) -> Maker:
    """Makes a size, as a number."""
    return lambda given: given.size(name)


def constant(value: Any) -> Maker:
    """Makes a value that depends on nothing."""
    return lambda given: value  # noqa: ARG005


def configured(name: str, maker: Maker) -> Maker:
    """Makes what `maker` makes with as many features as the config says under a name."""
    return lambda given: maker(replace(given, width=given.config.get(name) or given.width))


def positions(first: str, length: str) -> Maker:
    """Makes the positions (`length`,) of tokens behind others: the sizes named in `first`."""
    return lambda given: sum(given.shape(first)) + torch.arange(given.size(length))


def batched(maker: Maker) -> Maker:
    """Makes what `maker` makes for each sample: (B, ...)."""

    def make(given: Given) -> torch.Tensor:
        made: torch.Tensor = maker(given)
        return made.expand(given.sizes.batch, *made.shape)

    return make


def whole(maker: Maker) -> Maker:
    """Makes integers of what `maker` makes."""
    return lambda given: maker(given).long()


# -- positions ---------------------------------------------------------------------------------------------------------


def image_ids(given: Given) -> torch.Tensor:
    """(N, axes): frame, row and column of each token."""
    sizes, axes = given.sizes, _axes(given.config)
    ids = torch.zeros(sizes.tokens, axes)
    places = torch.cartesian_prod(*map(torch.arange, (sizes.frames, sizes.height, sizes.width)))
    ids[:, : min(axes, 3)] = places[:, : min(axes, 3)].to(ids.dtype)
    return ids


def text_ids(given: Given) -> torch.Tensor:
    """(L, axes): zeros."""
    return torch.zeros(given.sizes.text, _axes(given.config))


def joint_ids(given: Given) -> torch.Tensor:
    """(L + N, axes)."""
    return torch.cat([text_ids(given), image_ids(given)])


def packed_ids(given: Given) -> torch.Tensor:
    """(L + N + length, axes), of text, video and sound."""
    return torch.cat([joint_ids(given), torch.zeros(given.sizes.length, _axes(given.config))])


def _axes(config: ModelConfig) -> int:
    """The number of axes that positions have."""
    found = (v for k, v in config.items() if re.search("axes_dim|axes_lens|mrope|rope_dim|rope_axes", k))
    return next((len(v) for v in found if isinstance(v, list | tuple)), 3)


def latent_shape(given: Given) -> tuple[int, int, int]:
    """T, H, W."""
    return given.sizes.frames, given.sizes.height, given.sizes.width


def slots_mask(given: Given) -> torch.Tensor:
    """(B, L + N / 4): the places in a vision-language sequence that each stand for four tokens of the image."""
    text, image = torch.zeros(given.sizes.text), torch.ones(given.sizes.tokens // 4)
    return torch.cat([text, image]).bool().expand(given.sizes.batch, -1)


# -- rotary embeddings -------------------------------------------------------------------------------------------------


def _head(config: ModelConfig) -> int:
    """The width of an attention head, or 0."""
    named = config.get("attention_head_dim") or config.get("head_dim")
    hidden = config.get("hidden_size") or config.get("dim") or 0
    return int(named or hidden // _heads(config))


def _heads(config: ModelConfig) -> int:
    names = ("num_attention_heads", "num_heads", "n_heads")
    return next((config[name] for name in names if config.get(name)), 1)


def rotary(given: Given) -> Any:
    """Cosines and sines (patches, head)."""
    return (Noise((given.sizes.patches, _head(given.config))),) * 2


def complex_rotary(given: Given) -> torch.Tensor:
    """(rows, columns, head / 2) of complex numbers."""
    _, *grid = given.sizes.grid
    return torch.ones(*grid, _head(given.config) // 2, dtype=torch.complex64)


def axial_rotary(given: Given) -> Any:
    """For each axis cosines and sines (size, head / 3), and the positions (B, patches) along it."""
    grid = given.sizes.grid
    tables = tuple((Noise((size, _head(given.config) // 3)),) * 2 for size in grid)
    places = torch.cartesian_prod(*map(torch.arange, grid)).T
    return tables, tuple(place.expand(given.sizes.batch, -1) for place in places)


def prefixed_rotary(given: Given) -> Any:
    """Cosines and sines (length + 1, head / 2) of a sequence behind one token."""
    return (Noise((given.sizes.length + 1, _head(given.config) // 2)),) * 2


def split_rotary(given: Given) -> Any:
    """Cosines and sines (B, heads, N, head / 2)."""
    return (Noise((given.sizes.batch, _heads(given.config), given.sizes.tokens, _head(given.config) // 2)),) * 2


# -- text and images ---------------------------------------------------------------------------------------------------


def text_layers(given: Given) -> Noise:
    """(B, L, layers, C): the states of layers of a text encoder."""
    return Noise((given.sizes.batch, given.sizes.text, given.config.get("num_text_layers") or 1, given.width))


def second_text(given: Given) -> Noise:
    """(B, L, C), of a text encoder with a length of its own."""
    return Noise((given.sizes.batch, _second_length(given), given.width))


def second_mask(given: Given) -> torch.Tensor:
    """(B, L), of a text encoder with a length of its own."""
    return torch.full((given.sizes.batch, _second_length(given)), True)


def _second_length(given: Given) -> int:
    return next((v for k, v in given.config.items() if k.startswith("text_len_") and v), given.sizes.text)


def stacked_text(given: Given) -> Noise:
    """(layers, B, L, C), with the layers that a list in the config picks from."""
    picked = (v for k, v in given.config.items() if k.endswith("_layers") and isinstance(v, list | tuple) and v)
    return Noise((max(next(picked, (0,))) + 1, given.sizes.batch, given.sizes.text, given.width))


def text_for_blocks(given: Given) -> list[Noise]:
    """(B, L, C) for each block of the model."""
    blocks = sum(given.config.get(name) or 0 for name in ("num_layers", "num_single_layers"))
    return [Noise((given.sizes.batch, given.sizes.text, given.width))] * blocks


def masked_text(given: Given) -> list[Any]:
    """Pairs of states (B, L, C) and a mask (B, L)."""
    states = Noise((given.sizes.batch, given.sizes.text, given.width))
    return [(states, torch.full((given.sizes.batch, given.sizes.text), True))]


def pose(given: Given) -> Noise:
    """(B, C, T - 1, H, W): the first frame is a still."""
    return Noise((given.sizes.batch, given.width, given.sizes.frames - 1, given.sizes.height, given.sizes.width))


def faces(given: Given) -> Noise:
    """(B, 3, 4 T - 7, side, side): pixels, four frames for each of the latents that follow the first two."""
    side = given.config.get("motion_encoder_size") or 512
    return Noise((given.sizes.batch, 3, 4 * given.sizes.frames - 7, side, side))


def joint_mask(given: Given) -> torch.Tensor:
    """(B, L + 1 + patches, L + 1 + patches)."""
    length = given.sizes.text + 1 + given.sizes.patches
    return torch.ones(given.sizes.batch, length, length)


def joint_positions(given: Given) -> torch.Tensor:
    """(B, L + 1 + patches)."""
    return torch.arange(given.sizes.text + 1 + given.sizes.patches).expand(given.sizes.batch, -1)
