"""Tiny components of pipelines, made without a network: a byte-level tokenizer, text encoders, autoencoders."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 24
SPECIAL = ["<pad>", "</s>", "<s>"]
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokenizer(length: int = 16) -> PreTrainedTokenizerFast:
    """Takes each byte for a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(SPECIAL + alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", bos_token="<s>", model_max_length=length
    )
    fast.chat_template = CHAT
    return fast


VOCABULARY = 512
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip


def t5(kind: str = "t5") -> nn.Module:
    config, model = (T5Config, T5EncoderModel) if kind == "t5" else (UMT5Config, UMT5EncoderModel)
    return model(config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def clip(projection: bool = False) -> nn.Module:
    config = CLIPTextConfig(**{**SMALL, "max_position_embeddings": 77, "projection_dim": WIDTH, "hidden_act": "gelu"})
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def bert() -> nn.Module:
    return BertModel(BertConfig(**{**SMALL, "bos_token_id": None, "eos_token_id": None}))


def decoder_only(kind: str, **config: Any) -> nn.Module:
    """A language model whose hidden states are the text's embedding."""
    made, model = {
        "gemma": (Gemma2Config, Gemma2Model), "glm": (GlmConfig, GlmModel), "llama": (LlamaConfig, LlamaModel),
        "qwen3": (Qwen3Config, Qwen3Model),
    }[kind]  # fmt: skip
    more = config if kind == "llama" else config | {"head_dim": 12}
    return model(made(**{**SMALL, "num_key_value_heads": 2, **more}))


def vae(channels: int = 4, levels: int = 1, **config: Any) -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=channels, norm_num_groups=2, sample_size=32,
        scaling_factor=0.4, shift_factor=0.06, **config,
    )  # fmt: skip


def wan_vae(name: str = "AutoencoderKLWan", channels: int = 4) -> nn.Module:
    return getattr(diffusers, name)(
        base_dim=3, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * channels, latents_std=[1.2] * channels,
    )  # fmt: skip


def blocks_vae(family: str, **more: Any) -> nn.Module:
    """The autoencoder of a video family with four blocks each way."""
    return getattr(diffusers, f"AutoencoderKL{family}")(
        down_block_types=(f"{family}DownBlock3D",) * 4, up_block_types=(f"{family}UpBlock3D",) * 4,
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2, **more,
    )  # fmt: skip


def ltx_vae() -> nn.Module:
    scaling = (True, True, False, False)
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5, spatio_temporal_scaling=scaling, decoder_spatio_temporal_scaling=scaling,
        patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip


def mochi_vae() -> nn.Module:
    return diffusers.AutoencoderKLMochi(
        latent_channels=12, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5, latents_mean=[0.1] * 12, latents_std=[1.1] * 12,
    )  # fmt: skip


def dc_vae() -> nn.Module:
    blocks, widths, scales = ("ResBlock", "EfficientViTBlock"), (8, 8), ((), (5,))
    return diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales, encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm",
        decoder_act_fns="silu", scaling_factor=0.41,
    )  # fmt: skip


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def reproducible(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
