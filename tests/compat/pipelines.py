"""The pipelines of the five models, with tiny random components and the text's embeddings given."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Pipeline,
    WanPipeline,
)
from torch import nn

IMAGE = {"height": 4, "width": 4}


def pipeline(name: str, transformer: nn.Module) -> DiffusionPipeline:
    """The pipeline of the model `name`, around `transformer`."""
    torch.manual_seed(0)
    pipe = MAKERS[name](transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: DiffusionPipeline) -> Any:
    """What two steps of `pipe` give."""
    call = CALLS[type(pipe)]()
    shared = {"num_inference_steps": 2, "output_type": "np", "return_dict": False}
    return torch.tensor(pipe(**call, **shared, generator=torch.Generator().manual_seed(0))[0])


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4,), latent_channels=4, norm_num_groups=2, sample_size=4, shift_factor=0.0,
    ).eval()  # fmt: skip


def _no_text(*names: str) -> dict[str, None]:
    return dict.fromkeys(part + name for name in names for part in ("text_encoder", "tokenizer"))


def _wan_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip


def _flow(pipe: type, *texts: str) -> Any:
    def make(transformer: nn.Module) -> DiffusionPipeline:
        scheduler = FlowMatchEulerDiscreteScheduler()
        vae = _wan_vae() if pipe is WanPipeline else _vae()
        return pipe(transformer=transformer, vae=vae, scheduler=scheduler, **_no_text("", *texts))

    return make


MAKERS = {
    "dit": lambda t: DiTPipeline(transformer=t, vae=_vae(), scheduler=DDIMScheduler()),
    "pixart": lambda t: PixArtSigmaPipeline(transformer=t, vae=_vae(), scheduler=DDIMScheduler(), **_no_text("")),
    "sd3": _flow(StableDiffusion3Pipeline, "_2", "_3"),
    "flux": _flow(FluxPipeline, "_2"),
    "wan": _flow(WanPipeline),
}


def _embeds(length: int = 5) -> torch.Tensor:
    return torch.randn(1, length, 12, generator=torch.Generator().manual_seed(length))


def _pooled(seed: int) -> torch.Tensor:
    return torch.randn(1, 10, generator=torch.Generator().manual_seed(seed))


def _both() -> dict[str, Any]:
    return {"prompt_embeds": _embeds(), "negative_prompt_embeds": -_embeds()}


CALLS = {
    DiTPipeline: lambda: {"class_labels": [5, 1]},
    PixArtSigmaPipeline: lambda: {
        "height": 8, "width": 8, **_both(),
        "prompt_attention_mask": torch.ones(1, 5), "negative_prompt_attention_mask": torch.ones(1, 5),
        "negative_prompt": None, "use_resolution_binning": False,
    },
    StableDiffusion3Pipeline: lambda: {
        **IMAGE, **_both(), "pooled_prompt_embeds": _pooled(0), "negative_pooled_prompt_embeds": _pooled(1),
    },
    FluxPipeline: lambda: {**IMAGE, "prompt_embeds": _embeds(), "pooled_prompt_embeds": _pooled(0)},
    WanPipeline: lambda: {"height": 16, "width": 16, "num_frames": 5, **_both()},
}  # fmt: skip
