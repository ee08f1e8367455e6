"""The pipeline of a diffusion transformer whose latents are the pictures themselves, such as `digits-dit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

SCALE = 5
"""By which pictures are enlarged: 8 pixels are small on a screen."""


class DigitsPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Draws pictures of classes by deterministic DDIM (Song et al. 2021, eta = 0).

    Shapes: B samples, C channels, H x W pixels.
    """

    def __init__(self, transformer: Any, scheduler: Any) -> None:
        super().__init__()
        scheduler = DDIMScheduler.from_config(scheduler.config, timestep_spacing="leading")
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw a picture of each class.

        Args:
            class_labels: B of them.
            guidance_scale: of classifier-free guidance (Ho & Salimans 2022), null + scale * (class - null); 1 is none.
            num_inference_steps: evenly spaced timesteps from the top of the schedule downwards.
            generator: of the noise; a list has one for each sample.
            latents: the noise itself, (B, C, H, W).
            output_type: "pil", or "latent" for (B, C, H, W) in [-1, 1].
            return_dict: a plain tuple if false.
        """
        model = self.transformer
        weight = next(model.parameters())
        device, labels = weight.device, torch.tensor(class_labels, device=weight.device)
        if latents is None:
            size = model.config.sample_size
            shape = (len(labels), model.config.in_channels, size, size)
            latents = randn_tensor(shape, generator, device, weight.dtype)
        latents = latents.to(device) * self.scheduler.init_noise_sigma
        guided = guidance_scale != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, model.config.num_embeds_ada_norm)])
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            inputs = torch.cat([latents, latents]) if guided else latents
            times = t.to(device).expand(len(inputs))
            output = model(inputs, timestep=times, class_labels=labels).sample[:, : latents.shape[1]]
            if guided:
                of_class, null = output.chunk(2)
                output = null + guidance_scale * (of_class - null)
            latents = self.scheduler.step(output, t, latents).prev_sample
        images = latents if output_type == "latent" else pictures_of(latents)
        return ImagePipelineOutput(images) if return_dict else (images,)


class FashionPipeline(DigitsPipeline):
    """The same for models of clothes, such as `fashion-dit`: its name tells by what they are judged."""


def pictures_of(latents: Tensor) -> list[Image.Image]:
    """A picture of each of the latents (B, C, H, W) in [-1, 1]: grey of one channel, colours of three."""
    pixels = ((latents.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    tiles = (Image.fromarray(tile if tile.shape[2] == 3 else tile[..., 0]) for tile in pixels)
    size = (SCALE * pixels.shape[2], SCALE * pixels.shape[1])
    return [tile.resize(size, Image.Resampling.NEAREST) for tile in tiles]
