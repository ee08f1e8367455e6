"""Tiny pipelines that are given the text's embeddings, a second expert, or an image to start from."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.pipelines.build import Tiny, made_transformer, with_text
from tests.pipelines.parts import WIDTH, clip, flow, ltx_vae, reproducible, t5, tokenizer, vae, wan_vae
from tests.pipelines.tiny import IMAGE, PROMPT, TEXT, VIDEO, WAN


def embeds(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=reproducible(seed))


TEXTS = {"prompt_embeds": embeds(1, 16, WIDTH), "negative_prompt_embeds": embeds(1, 16, WIDTH, seed=1)}
MASKS = {name: torch.ones(1, 16, dtype=torch.bool) for name in ("prompt_embeds_mask", "negative_prompt_embeds_mask")}
PICTURE = torch.rand(1, 3, 32, 32, generator=reproducible())
NO_TEXT = {"text_encoder": None, "tokenizer": None}


def _flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(4,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        latent_channels=1, norm_num_groups=1, layers_per_block=1, sample_size=32,
    )  # fmt: skip


def _experts() -> dict[str, Any]:
    return {
        "text_encoder": t5("umt5"), "tokenizer": tokenizer(), "vae": wan_vae(), "scheduler": flow(shift=3.0),
        "transformer_2": made_transformer("WanTransformer3DModel", WAN), "boundary_ratio": 0.5,
    }  # fmt: skip


def _kontext() -> dict[str, Any]:
    return {
        "text_encoder": clip(), "tokenizer": tokenizer(), "text_encoder_2": t5(), "tokenizer_2": tokenizer(),
        "vae": vae(1), "scheduler": flow(),
    }  # fmt: skip


def _hidream() -> dict[str, Any]:
    names = [f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3", "_4")]
    return {**dict.fromkeys(names), "vae": vae(), "scheduler": flow()}


def _unipc_flow() -> Any:
    return diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")


def _qwen_vae() -> Any:
    return wan_vae("AutoencoderKLQwenImage")


FLUX = {"in_channels": 4, "joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH}
LTX = {"in_channels": 8, "out_channels": 8, "caption_channels": WIDTH}

EMBEDDED = (
    Tiny(
        "WanVACEPipeline",
        "WanVACETransformer3DModel",
        WAN | {"vace_in_channels": 72},
        lambda: {**NO_TEXT, "vae": wan_vae(), "scheduler": flow()},
        TEXTS | VIDEO,
    ),
    Tiny(
        "SkyReelsV2Pipeline",
        "SkyReelsV2Transformer3DModel",
        WAN,
        lambda: {**NO_TEXT, "vae": wan_vae(), "scheduler": _unipc_flow()},
        TEXTS | VIDEO,
    ),
    Tiny("WanPipeline", "WanTransformer3DModel", WAN, _experts, PROMPT | TEXT | VIDEO, "two experts"),
    Tiny(
        "PRXPipeline",
        "PRXTransformer2DModel",
        {"context_in_dim": WIDTH, "resolution_embeds": False},
        lambda: {**NO_TEXT, "vae": vae(), "scheduler": flow()},
        TEXTS
        | IMAGE
        | {
            "use_resolution_binning": False,
            "prompt_attention_mask": torch.ones(1, 16, dtype=torch.bool),
            "negative_prompt_attention_mask": torch.ones(1, 16, dtype=torch.bool),
        },
    ),
    Tiny(
        "QwenImagePipeline",
        "QwenImageTransformer2DModel",
        {"in_channels": 16, "out_channels": 4, "joint_attention_dim": WIDTH},
        lambda: {**NO_TEXT, "vae": _qwen_vae(), "scheduler": flow()},
        TEXTS | MASKS | {"height": 32, "width": 32},
    ),
    Tiny(
        "NucleusMoEImagePipeline",
        "NucleusMoEImageTransformer2DModel",
        {"in_channels": 16, "out_channels": 4, "joint_attention_dim": WIDTH},
        lambda: {"text_encoder": None, "processor": None, "vae": _qwen_vae(), "scheduler": flow()},
        TEXTS | MASKS | {"height": 32, "width": 32},
    ),
    Tiny(
        "Krea2Pipeline",
        "Krea2Transformer2DModel",
        {"in_channels": 16, "text_hidden_dim": WIDTH},
        lambda: {**NO_TEXT, "vae": _qwen_vae(), "scheduler": flow()},
        MASKS
        | {
            "height": 32,
            "width": 32,
            "prompt_embeds": embeds(1, 16, 3, WIDTH),
            "negative_prompt_embeds": embeds(1, 16, 3, WIDTH, seed=1),
        },
    ),
    Tiny(
        "Flux2Pipeline",
        "Flux2Transformer2DModel",
        {"in_channels": 4, "joint_attention_dim": WIDTH},
        lambda: {**NO_TEXT, "vae": _flux2_vae(), "scheduler": flow()},
        {"prompt_embeds": TEXTS["prompt_embeds"]} | IMAGE,
    ),
    Tiny(
        "ErnieImagePipeline",
        "ErnieImageTransformer2DModel",
        {"in_channels": 4, "out_channels": 4, "text_in_dim": WIDTH},
        lambda: {**NO_TEXT, "vae": _flux2_vae(), "scheduler": flow()},
        {"prompt_embeds": [embeds(9, WIDTH)], "negative_prompt_embeds": [embeds(5, WIDTH)], "use_pe": False, **IMAGE},
    ),
    Tiny(
        "AnyFlowPipeline",
        "AnyFlowTransformer3DModel",
        WAN,
        with_text("umt5", wan_vae, diffusers.FlowMapEulerDiscreteScheduler),
        PROMPT | TEXT | VIDEO,
    ),
    Tiny(
        "HiDreamImagePipeline",
        "HiDreamImageTransformer2DModel",
        {"caption_channels": [WIDTH, WIDTH], "llama_layers": [0, 1, 0, 1]},
        _hidream,
        {
            "prompt_embeds_t5": embeds(1, 8, WIDTH),
            "negative_prompt_embeds_t5": embeds(1, 8, WIDTH, seed=1),
            "prompt_embeds_llama3": embeds(2, 1, 8, WIDTH),
            "negative_prompt_embeds_llama3": embeds(2, 1, 8, WIDTH, seed=1),
            "pooled_prompt_embeds": embeds(1, 10),
            "negative_pooled_prompt_embeds": embeds(1, 10, seed=1),
            **IMAGE,
        },
    ),
    Tiny(
        "FluxKontextPipeline",
        "FluxTransformer2DModel",
        FLUX,
        _kontext,
        PROMPT | TEXT | {"image": PICTURE, "height": 32, "width": 32, "_auto_resize": False, "max_area": 1024},
    ),
    Tiny(
        "LTXImageToVideoPipeline",
        "LTXVideoTransformer3DModel",
        LTX,
        with_text("t5", ltx_vae),
        PROMPT | TEXT | {"image": PICTURE, "height": 32, "width": 32, "num_frames": 9},
    ),
    Tiny(
        "PixArtAlphaPipeline",
        "PixArtTransformer2DModel-conditioned",
        {"caption_channels": WIDTH, "sample_size": 128},  # of that size, the pipeline gives sizes to the transformer
        with_text("t5", vae, diffusers.DDIMScheduler),
        PROMPT | TEXT | {"height": 8, "width": 8, "use_resolution_binning": False},
        "sizes among the conditions",
    ),
    Tiny(
        "StableDiffusion3Pipeline",
        "SD3Transformer2DModel-controlled-dual-attention",
        {"joint_attention_dim": WIDTH},
        lambda: {
            **dict.fromkeys(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")),
            "vae": vae(),
            "scheduler": flow(shift=3.0),
        },
        TEXTS
        | {
            "pooled_prompt_embeds": embeds(1, 10),
            "negative_pooled_prompt_embeds": embeds(1, 10, seed=1),
            "height": 8,
            "width": 8,
            "skip_guidance_layers": [1],
        },
        "layers skipped",
    ),
)
