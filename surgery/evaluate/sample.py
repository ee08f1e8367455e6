"""Samples of a class-conditional diffusers transformer: DDIM from fixed noise, and pictures of them.

Shapes: N samples, B batch size, C channels, H x W latent size.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn

from surgery.errors import SurgeryError
from surgery.evaluate.sampling import PROTOCOL, Drawn, Sampling
from surgery.store.order import seeded
from surgery.training.diffusion import null_label, without_sigma
from surgery.training.scheduler import Scheduler
from surgery.training.source import predict


def balanced_labels(samples: int, classes: int = 10) -> Tensor:
    """Labels (N,), int64, that run through the classes again and again: 0, ..., classes - 1, 0, ..."""
    return torch.arange(samples) % classes


@torch.inference_mode()
def sample(
    model: nn.Module,
    scheduler: Scheduler,
    labels: Tensor,
    *,
    seed: int = 0,
    steps: int = PROTOCOL.steps,
    guidance: float = PROTOCOL.guidance,
    batch_size: int = PROTOCOL.batch_size,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """Samples (N, C, H, W), float32 on the CPU, by deterministic DDIM (Song et al. 2021, eta = 0).

    Sample i starts from noise that depends on `seed` and i alone, so that different models can be compared on the same
    noise. A scheduler with `clip_sample` gives samples within its clip range.

    Args:
        model: the denoiser.
        scheduler: whose config the sampler is built from.
        labels: (N,), the classes.
        seed: of the noise.
        steps: evenly spaced timesteps from the top of the schedule downwards.
        guidance: other than 1 adds a pass with the null class for classifier-free guidance (Ho & Salimans 2022).
        batch_size: samples at a time.
        advance: is called after each batch with its number of samples.

    Raises:
        SurgeryError: guidance is asked of a model without a null class.
    """
    if guidance != 1.0 and null_label(model) is None:
        raise SurgeryError(f"{type(model).__name__} has no null class: set guidance to 1.0")
    noise_NCHW = initial_noise(model, len(labels), seed)
    ddim = DDIMScheduler.from_config(scheduler.config, timestep_spacing="leading")
    ddim.set_timesteps(steps)
    images = []
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        images.append(_denoise(model, ddim, noise_NCHW[part], labels[part], guidance))
        if advance is not None:
            advance(len(images[-1]))
    return torch.cat(images)


def initial_noise(model: Any, samples: int, seed: int) -> Tensor:
    """The noise (N, C, H, W), float32 on the CPU, from which `sample` starts."""
    size = model.config.sample_size
    shape = (model.config.in_channels, size, size)
    return torch.stack([torch.randn(shape, generator=seeded(seed, "sample", i)) for i in range(samples)])


def _denoise(model: nn.Module, ddim: Any, noise_BCHW: Tensor, labels_B: Tensor, guidance: float) -> Tensor:
    parameter = next(model.parameters())
    latents_BCHW: Tensor = noise_BCHW.to(parameter.device) * ddim.init_noise_sigma
    labels_B = labels_B.to(parameter.device)
    for timestep in ddim.timesteps:
        inputs_BCHW = ddim.scale_model_input(latents_BCHW, timestep).to(parameter.dtype)
        output_BCHW = _guided(model, inputs_BCHW, timestep, labels_B, guidance)
        latents_BCHW = ddim.step(output_BCHW.float(), timestep, latents_BCHW).prev_sample
    return latents_BCHW.cpu()


def _guided(model: nn.Module, latents_BCHW: Tensor, timestep: Tensor, labels_B: Tensor, guidance: float) -> Tensor:
    """The prediction (B, C, H, W) without sigma: null + guidance * (conditional - null)."""
    null = null_label(model)
    if guidance == 1.0 or null is None:
        return _predict(model, latents_BCHW, timestep, labels_B)
    doubled = torch.cat([latents_BCHW, latents_BCHW])
    labels = torch.cat([labels_B, torch.full_like(labels_B, null)])
    conditional, unconditional = _predict(model, doubled, timestep, labels).chunk(2)
    guided: Tensor = torch.lerp(unconditional, conditional, guidance)
    return guided


def _predict(model: nn.Module, latents_BCHW: Tensor, timestep: Tensor, labels_B: Tensor) -> Tensor:
    timestep_B = timestep.to(latents_BCHW.device).expand(len(latents_BCHW))
    inputs = {"hidden_states": latents_BCHW, "timestep": timestep_B, "class_labels": labels_B}
    return without_sigma(predict(model, inputs), latents_BCHW.shape[1])


@dataclass(frozen=True)
class LatentSampler:
    """Samples of balanced classes by DDIM, see `sample`; a `surgery.evaluate.sampling.Sampler`."""

    scheduler: Scheduler

    def draw(self, model: nn.Module, settings: Sampling, seed: int, advance: Callable[[int], None]) -> Drawn:
        """See `Sampler`."""
        latents = sample(
            model,
            self.scheduler,
            balanced_labels(settings.samples),
            seed=seed,
            steps=settings.steps,
            guidance=settings.guidance,
            batch_size=settings.batch_size,
            advance=advance,
        )
        return Drawn(latents, pictures_of(latents))


def pictures_of(samples: Tensor, scale: int = 5) -> list[Image.Image]:
    """A picture of each of the samples (N, C, H, W) in [-1, 1], enlarged `scale` times.

    One channel is drawn in grey, three as colours; of latents with more channels the first is drawn in grey.
    """
    shown = samples if samples.shape[1] == 3 else samples[:, :1]
    tiles = ((shown.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    size = (tiles.shape[2] * scale, tiles.shape[1] * scale)
    pictures = (Image.fromarray(tile if tile.shape[2] == 3 else tile[..., 0]) for tile in tiles)
    return [picture.resize(size, Image.Resampling.NEAREST) for picture in pictures]


def grid_of(pictures: Sequence[Image.Image], *, columns: int = 10, margin: int = 4) -> Image.Image:
    """One picture of `pictures`, which are of one size, row by row; margins, in pixels, are white."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    size = (columns * (width + margin) + margin, rows * (height + margin) + margin)
    grid = Image.new("RGB", size, "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, (margin + i % columns * (width + margin), margin + i // columns * (height + margin)))
    return grid


def grid_png(pictures: Sequence[Image.Image], *, columns: int = 10) -> bytes:
    """What `grid_of` draws, as the content of a PNG file."""
    buffer = io.BytesIO()
    grid_of(pictures, columns=columns).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
