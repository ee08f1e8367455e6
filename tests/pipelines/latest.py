"""Tiny pipelines of recent models, which are given the embeddings of their large language models."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.pipelines.build import Tiny, text_parts
from tests.pipelines.embedded import MASKS, NO_TEXT, TEXTS, embeds
from tests.pipelines.parts import WIDTH, blocks_vae, decoder_only, flow, tokenizer, vae, wan_vae
from tests.pipelines.tiny import IMAGE, PROMPT, TEXT, VIDEO

NARROW = 12
TWO = {"text_encoder_2": None, "tokenizer_2": None}
SMALL = {"height": 8, "width": 8}


def twice(make: Any) -> dict[str, Tensor]:
    """Second embeddings with masks, for both branches of guidance."""
    names = ("prompt_embeds_2", "negative_prompt_embeds_2")
    masks = {f"{name.replace('_2', '')}_mask_2": torch.ones(1, 16, dtype=torch.long) for name in names}
    return {name: make(seed) for seed, name in enumerate(names)} | masks


BYTES = twice(lambda seed: embeds(1, 16, NARROW, seed=seed))
ATTENTION_MASKS = {name.replace("embeds_mask", "attention_mask"): mask.long() for name, mask in MASKS.items()}


def _hunyuan_image() -> dict[str, Any]:
    autoencoder = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=16, scaling_factor=0.6,
    )  # fmt: skip
    guider = diffusers.guiders.AdaptiveProjectedMixGuidance()
    return {**NO_TEXT, **TWO, "vae": autoencoder, "scheduler": flow(), "guider": guider}


def _hunyuan_video_15() -> dict[str, Any]:
    autoencoder = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(32, 32, 32, 32), layers_per_block=1, spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )  # fmt: skip
    guider = diffusers.guiders.ClassifierFreeGuidance(guidance_scale=4.0)
    return {**NO_TEXT, **TWO, "vae": autoencoder, "scheduler": flow(), "guider": guider}


def _motif() -> dict[str, Any]:
    guider = diffusers.guiders.ClassifierFreeGuidance(guidance_scale=4.0)
    return {**NO_TEXT, "vae": wan_vae(), "scheduler": flow(), "guider": guider, "feature_extractor": None}


def _easy_animate() -> dict[str, Any]:
    autoencoder = diffusers.AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), norm_num_groups=2, layers_per_block=1,
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
    )  # fmt: skip
    return {**NO_TEXT, "vae": autoencoder, "scheduler": flow()}


def _bria_fibo() -> dict[str, Any]:
    text_encoder = decoder_only("llama", vocab_size=128_256)  # the pipeline names one of its tokens by number
    return {"tokenizer": tokenizer(), "text_encoder": text_encoder, "vae": wan_vae(), "scheduler": flow()}


def _longcat() -> dict[str, Any]:
    return {**text_parts("qwen3", 512), "text_processor": None, "vae": vae(16), "scheduler": flow()}


KANDINSKY = {
    f"{sign}prompt_{name}": value
    for seed, sign in enumerate(("", "negative_"))
    for name, value in {
        "embeds_qwen": embeds(1, 16, WIDTH, seed=seed),
        "embeds_clip": embeds(1, NARROW, seed=seed),
        "cu_seqlens": torch.tensor([0, 16], dtype=torch.int32),
    }.items()
}

LATEST = (
    Tiny(
        "HunyuanImagePipeline",
        "HunyuanImageTransformer2DModel-glyphs",
        {"text_embed_dim": WIDTH, "text_embed_2_dim": NARROW, "patch_size": (1, 1), "use_meanflow": False},
        _hunyuan_image,
        TEXTS | {name: mask.long() for name, mask in MASKS.items()} | BYTES | IMAGE,
    ),
    Tiny(
        "HunyuanVideo15Pipeline",
        "HunyuanVideo15Transformer3DModel",
        {"in_channels": 9, "out_channels": 4, "text_embed_dim": WIDTH, "text_embed_2_dim": NARROW},
        _hunyuan_video_15,
        TEXTS | {name: mask.long() for name, mask in MASKS.items()} | BYTES | VIDEO,
    ),
    Tiny(
        "MotifVideoPipeline",
        "MotifVideoTransformer3DModel",
        {"in_channels": 9, "out_channels": 4, "text_embed_dim": WIDTH},
        _motif,
        TEXTS | ATTENTION_MASKS | VIDEO,
    ),
    Tiny(
        "LongCatImagePipeline",
        "LongCatImageTransformer2DModel",
        {"in_channels": 64, "joint_attention_dim": WIDTH},
        _longcat,
        PROMPT | IMAGE | {"enable_prompt_rewrite": False},
    ),
    Tiny(
        "Kandinsky5T2VPipeline",
        "Kandinsky5Transformer3DModel",
        {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": NARROW},
        lambda: {**NO_TEXT, **TWO, "vae": blocks_vae("HunyuanVideo"), "scheduler": flow()},
        KANDINSKY | VIDEO,
    ),
    Tiny(
        "EasyAnimatePipeline",
        "EasyAnimateTransformer3DModel",
        {"in_channels": 4, "out_channels": 4},
        _easy_animate,
        TEXTS | ATTENTION_MASKS | VIDEO,
    ),
    Tiny(
        "GlmImagePipeline",
        "GlmImageTransformer2DModel",
        {"in_channels": 4, "out_channels": 4, "text_embed_dim": WIDTH},
        lambda: {
            **NO_TEXT,
            "processor": None,
            "vision_language_encoder": None,
            "vae": vae(latents_mean=[0.1] * 4, latents_std=[1.1] * 4),
            "scheduler": flow(),
        },
        TEXTS | IMAGE | {"prior_token_ids": torch.arange(64)[None] % 32},
    ),
    Tiny(
        "BriaFiboPipeline",
        "BriaFiboTransformer2DModel",
        {"in_channels": 4, "joint_attention_dim": 2 * WIDTH, "text_encoder_dim": WIDTH},
        _bria_fibo,
        PROMPT | TEXT | IMAGE,
    ),
)
