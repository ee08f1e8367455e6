"""From pixels to latents: a pipeline's own way from its last latents to its autoencoder, inverted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.affine import Affine, digits_of, learn
from surgery.pipelines.drive import Done, Forward, Listener, Step, attribute_set, drive, modules
from surgery.pipelines.tree import Arguments, kept, prediction

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Encoder:
    """The way from an autoencoder's latents to the pipeline's: normalised, packed, as the scheduler has them.

    Attributes:
        autoencoder: name of the component.
        shape: of the latents of one sample in the scheduler.
        pixels: shape of what the autoencoder decodes one sample to: (3, H, W), or (3, F, H, W) of a video.
        affine: from these to what the autoencoder decodes, without what is added.
        offset: what is added, flat, float64.
    """

    autoencoder: str
    shape: tuple[int, ...]
    pixels: tuple[int, ...]
    affine: Affine
    offset: Tensor

    def latents_of(self, encoded: Tensor) -> Tensor:
        """The latents that the pipeline would decode as `encoded`, (B, ...); returns (B, *shape), in float32.

        Raises:
            WiringError: `encoded` is of another size than what the pipeline decodes.
        """
        if encoded[:1].shape != self.affine.shape:
            raise WiringError(
                f"images encoded to {tuple(encoded.shape[1:])} where the pipeline decodes {self.affine.shape[1:]}: "
                "resize them to the size of the call"
            )
        flat = encoded.reshape(len(encoded), -1).double().cpu()
        elements = torch.Size(self.shape).numel()
        latents = flat.new_zeros(len(encoded), elements)
        latents[:, self.affine.index.long()] = (flat - self.offset) / self.affine.scale
        return latents.reshape(-1, *self.shape).float()

    def encode(self, pipeline: Any, pixels: Tensor) -> Tensor:
        """The latents of real images or videos.

        Args:
            pipeline: whose autoencoder to use.
            pixels: in [-1, 1], (B, 3, H, W), or (B, 3, F, H, W) of videos.

        Returns:
            (B, *shape), in float32.

        Raises:
            WiringError: the autoencoder takes no such pixels, or they are of another size than the wiring's.
        """
        autoencoder = getattr(pipeline, self.autoencoder)
        first = next(autoencoder.parameters())
        try:
            with torch.no_grad():
                out = autoencoder.encode(pixels.to(first.device, first.dtype))
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise WiringError(f"{type(autoencoder).__name__} does not encode {tuple(pixels.shape)}: {error}") from error
        return self.latents_of(_mode(out))


def _mode(out: Any) -> Tensor:
    """The most likely latents in what an autoencoder's `encode` returns."""
    if hasattr(out, "latent_dist"):
        mode: Tensor = out.latent_dist.mode()
        return mode
    latents = getattr(out, "latent", None)
    if latents is None:
        latents = getattr(out, "latents", None)
    if not isinstance(latents, Tensor):
        raise WiringError(f"{type(out).__name__} of the autoencoder holds no latents that are known")
    return latents


def encoder_of(pipeline: Any, call: Mapping[str, Any], shape: tuple[int, ...]) -> Encoder:
    """Find the way from the latents of `pipeline(**call)`, of `shape` for one sample, to its autoencoder, inverted.

    Raises:
        WiringError: the pipeline decodes something that is no affine map of all its latents.
    """
    decoding = _Decoding(pipeline, {**call, "num_inference_steps": 2})
    elements = torch.Size(shape).numel()
    sample = decoding.run(torch.zeros)
    ones = decoding.run(torch.ones)
    digits = [decoding.run(partial(_digit, place)) for place in range(len(digits_of(decoding.elements)))]
    affine, offset = learn(sample, ones, digits, decoding.elements)
    probe = torch.randn(decoding.elements, generator=torch.Generator().manual_seed(0))
    got = decoding.run(lambda _: probe).reshape(-1).double()
    own = probe.double()[affine.index.clamp(min=0).long()] * affine.scale + offset
    tolerance = max(TOLERANCE, 4 * torch.finfo(sample.dtype).eps) * float(got.abs().max())
    if bool(affine.fixed.any()) or not torch.allclose(own, got, rtol=0, atol=tolerance):
        raise WiringError(f"{decoding.autoencoder} decodes something that is no affine map of the latents")
    if torch.bincount(affine.index, minlength=elements).eq(0).any() or int(affine.index.max()) >= elements:
        raise WiringError(f"{decoding.autoencoder} decodes a part of the latents only")
    return Encoder(decoding.autoencoder, shape, decoding.pixels, affine, offset)


def _digit(place: int, elements: int) -> Tensor:
    return digits_of(elements)[place]


class _Decoding(Listener):
    """Runs that give the scheduler's latents some content, and end with what the autoencoder is to decode.

    Models run in the first one only, the decoder too; later ones get the same outputs again.
    """

    def __init__(self, pipeline: Any, call: Mapping[str, Any]) -> None:
        self.autoencoder, self.elements = "", 0
        self.pixels: tuple[int, ...] = ()
        self._pipeline = pipeline
        self._call = {key: value for key, value in call.items() if key != "output_type"}
        self._outputs: list[Any] = []
        self._calls = 0
        self._content: Callable[[int], Tensor] = torch.zeros
        self._decoded: list[Tensor] = []

    def run(self, content: Callable[[int], Tensor]) -> Tensor:
        """What is decoded if the last latents are `content` of as many elements."""
        self._content, self._calls, self._decoded = content, 0, []
        with ExitStack() as stack:
            for name, module in modules(self._pipeline).items():
                own = getattr(module, "decode", None)
                if callable(own):
                    stack.enter_context(attribute_set(module, "decode", self._decode(name, own)))
            drive(self._pipeline, self._call, self)
        if not self._decoded:
            raise WiringError(f"{type(self._pipeline).__name__} decodes its latents with no autoencoder")
        return self._decoded[0]

    def forward(self, model: str, forward: Forward, arguments: Arguments) -> Any:  # noqa: ARG002
        if self._calls == len(self._outputs):
            self._outputs.append(forward(**arguments))
        self._calls += 1
        return self._outputs[self._calls - 1]

    def step(self, seen: Step, previous: Tensor) -> Tensor:  # noqa: ARG002
        self.elements = previous.numel()
        return self._content(previous.numel()).reshape(previous.shape).to(previous)

    def _decode(self, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def decode(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.autoencoder = name
            self._decoded.append(kept(latents))
            self.pixels = self.pixels or tuple(prediction(own(latents, *args, **kwargs)).shape[1:])
            raise Done

        return decode
