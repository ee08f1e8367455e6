"""Tiny pipelines of diffusers with random weights throughout: no output is zero."""

from __future__ import annotations

from typing import Any

import diffusers

from tests.pipelines.build import Tiny, with_text
from tests.pipelines.parts import (
    WIDTH,
    bert,
    blocks_vae,
    clip,
    dc_vae,
    decoder_only,
    flow,
    ltx_vae,
    mochi_vae,
    t5,
    tokenizer,
    vae,
    wan_vae,
)

IMAGE = {"height": 16, "width": 16}
VIDEO = {"height": 16, "width": 16, "num_frames": 9}


def _stable_diffusion_3() -> dict[str, Any]:
    return {
        "text_encoder": clip(True), "tokenizer": tokenizer(), "text_encoder_2": clip(True), "tokenizer_2": tokenizer(),
        "text_encoder_3": t5(), "tokenizer_3": tokenizer(), "vae": vae(), "scheduler": flow(),
    }  # fmt: skip


def _flux() -> dict[str, Any]:
    return {
        "text_encoder": clip(), "tokenizer": tokenizer(), "text_encoder_2": t5(), "tokenizer_2": tokenizer(),
        "vae": vae(1), "scheduler": flow(use_dynamic_shifting=True),
    }  # fmt: skip


def _hunyuan_dit() -> dict[str, Any]:
    return {
        "text_encoder": bert(), "tokenizer": tokenizer(), "text_encoder_2": t5(), "tokenizer_2": tokenizer(),
        "vae": vae(levels=4), "scheduler": diffusers.DDPMScheduler(), "safety_checker": None, "feature_extractor": None,
        "requires_safety_checker": False,
    }  # fmt: skip


def _dit() -> dict[str, Any]:
    return {"vae": vae(), "scheduler": diffusers.DDIMScheduler()}


def _hunyuan_video() -> dict[str, Any]:
    return {
        "text_encoder": decoder_only("llama"), "tokenizer": tokenizer(), "text_encoder_2": clip(),
        "tokenizer_2": tokenizer(), "vae": blocks_vae("HunyuanVideo"), "scheduler": flow(shift=7.0),
    }  # fmt: skip


PROMPT = {"prompt": "a cat"}
TEXT = {"max_sequence_length": 16}
WAN = {"text_dim": WIDTH, "in_channels": 4, "out_channels": 4}
PIXART = {"caption_channels": WIDTH}
NO_BINS = {"use_resolution_binning": False}
COG = {"text_embed_dim": WIDTH, "in_channels": 4, "out_channels": 4}

PIPELINES = (
    Tiny("DiTPipeline", "DiTTransformer2DModel", {"num_embeds_ada_norm": 1000}, _dit, {"class_labels": [1]}),
    Tiny(
        "PixArtSigmaPipeline",
        "PixArtTransformer2DModel",
        PIXART,
        with_text("t5", vae, diffusers.DPMSolverMultistepScheduler),
        PROMPT | TEXT | NO_BINS | {"height": 8, "width": 8},
    ),
    Tiny(
        "PixArtAlphaPipeline",
        "PixArtTransformer2DModel",
        PIXART,
        with_text("t5", vae, diffusers.DPMSolverMultistepScheduler),
        PROMPT | TEXT | NO_BINS | {"height": 8, "width": 8},
    ),
    Tiny(
        "StableDiffusion3Pipeline",
        "SD3Transformer2DModel",
        {"joint_attention_dim": WIDTH, "pooled_projection_dim": 2 * WIDTH},
        _stable_diffusion_3,
        PROMPT | TEXT | {"height": 8, "width": 8},
    ),
    Tiny(
        "FluxPipeline",
        "FluxTransformer2DModel",
        {"in_channels": 4, "joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH, "guidance_embeds": True},
        _flux,
        PROMPT | TEXT | IMAGE,
    ),
    Tiny(
        "ChromaPipeline",
        "ChromaTransformer2DModel",
        {"in_channels": 4, "joint_attention_dim": WIDTH},
        with_text("t5", lambda: vae(1)),
        PROMPT | TEXT | IMAGE,
    ),
    Tiny(
        "AuraFlowPipeline",
        "AuraFlowTransformer2DModel",
        {"joint_attention_dim": WIDTH},
        with_text("umt5", vae),
        PROMPT | TEXT | {"height": 8, "width": 8},
    ),
    Tiny("WanPipeline", "WanTransformer3DModel", WAN, with_text("umt5", wan_vae), PROMPT | TEXT | VIDEO),
    Tiny(
        "SanaPipeline",
        "SanaTransformer2DModel",
        {"caption_channels": WIDTH},
        with_text("gemma", dc_vae),
        PROMPT | TEXT | NO_BINS | {"height": 32, "width": 32, "complex_human_instruction": None},
    ),
    Tiny(
        "CogVideoXPipeline",
        "CogVideoXTransformer3DModel",
        COG | {"max_text_seq_length": 16, "sample_height": 2, "sample_width": 2, "sample_frames": 9},
        with_text(
            "t5", lambda: blocks_vae("CogVideoX", temporal_compression_ratio=4), diffusers.CogVideoXDDIMScheduler
        ),
        PROMPT | TEXT | VIDEO,
    ),
    Tiny(
        "CogView3PlusPipeline",
        "CogView3PlusTransformer2DModel",
        COG | {"condition_dim": 2},
        with_text("t5", vae, lambda: diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")),
        PROMPT | TEXT | {"height": 8, "width": 8},
    ),
    Tiny(
        "CogView4Pipeline",
        "CogView4Transformer2DModel",
        COG | {"condition_dim": 2, "rope_axes_dim": (16, 16)},
        with_text("glm", vae),
        PROMPT | TEXT | {"height": 16, "width": 16},
    ),
    Tiny(
        "LTXPipeline",
        "LTXVideoTransformer3DModel",
        {"in_channels": 8, "out_channels": 8, "caption_channels": WIDTH},
        with_text("t5", ltx_vae),
        PROMPT | TEXT | {"height": 32, "width": 32, "num_frames": 9},
    ),
    Tiny(
        "MochiPipeline",
        "MochiTransformer3DModel",
        {"in_channels": 12, "text_embed_dim": WIDTH},
        with_text("t5", mochi_vae),
        PROMPT | TEXT | {"height": 16, "width": 16, "num_frames": 7},
    ),
    Tiny(
        "LattePipeline",
        "LatteTransformer3DModel",
        {"in_channels": 4, "out_channels": 8, "caption_channels": WIDTH, "sample_size": 8, "video_length": 1},
        with_text("t5", vae, diffusers.DDIMScheduler),
        PROMPT | {"height": 8, "width": 8, "video_length": 1, "clean_caption": False},
    ),
    Tiny(
        "AllegroPipeline",
        "AllegroTransformer3DModel",
        {"in_channels": 4, "caption_channels": WIDTH},
        with_text(
            "t5",
            lambda: blocks_vae(
                "Allegro",
                temporal_downsample_blocks=(True, True, False, False),
                temporal_upsample_blocks=(False, True, True, False),
                temporal_compression_ratio=4,
            ),
            diffusers.EulerAncestralDiscreteScheduler,
        ),
        PROMPT | TEXT | {"height": 16, "width": 16, "num_frames": 8, "clean_caption": False},
    ),
    Tiny(
        "HunyuanDiTPipeline",
        "HunyuanDiT2DModel",
        {
            "cross_attention_dim": WIDTH,
            "cross_attention_dim_t5": WIDTH,
            "pooled_projection_dim": WIDTH,
            "text_len": 77,
            "text_len_t5": 256,
            "hidden_size": 16,
        },
        _hunyuan_dit,
        PROMPT | NO_BINS | {"height": 16, "width": 16},
    ),
    Tiny(
        "HunyuanVideoPipeline",
        "HunyuanVideoTransformer3DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "text_embed_dim": WIDTH,
            "pooled_projection_dim": WIDTH,
            "guidance_embeds": True,
        },
        _hunyuan_video,
        PROMPT | TEXT | VIDEO | {"prompt_template": {"template": "{}", "crop_start": 0}},
    ),
    Tiny(
        "Lumina2Pipeline",
        "Lumina2Transformer2DModel",
        {"cap_feat_dim": WIDTH},
        with_text("gemma", vae),
        PROMPT | TEXT | {"height": 16, "width": 16},
    ),
    Tiny(
        "LuminaPipeline",
        "LuminaNextDiT2DModel",
        {"cross_attention_dim": WIDTH},
        with_text("gemma", vae),
        PROMPT | {"height": 16, "width": 16, "max_sequence_length": 16, "clean_caption": False},
    ),
    Tiny(
        "ZImagePipeline",
        "ZImageTransformer2DModel",
        {"cap_feat_dim": WIDTH},
        with_text("qwen3", vae),
        PROMPT | TEXT | {"height": 16, "width": 16},
    ),
    Tiny(
        "OvisImagePipeline",
        "OvisImageTransformer2DModel",
        {"in_channels": 4, "out_channels": 4, "joint_attention_dim": WIDTH},
        with_text("qwen3", lambda: vae(1)),
        PROMPT | IMAGE | {"max_sequence_length": 16},
    ),
    Tiny(
        "BriaPipeline",
        "BriaTransformer2DModel",
        {"in_channels": 16, "joint_attention_dim": WIDTH},
        with_text("t5", vae),
        PROMPT | IMAGE | {"max_sequence_length": 16},
    ),
    Tiny(
        "SanaVideoPipeline",
        "SanaVideoTransformer3DModel",
        {"caption_channels": WIDTH, "in_channels": 4},
        with_text("gemma", wan_vae),
        PROMPT
        | TEXT
        | {"height": 32, "width": 32, "frames": 9, "complex_human_instruction": None, "use_resolution_binning": False},
    ),
)
