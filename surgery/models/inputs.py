"""Example inputs for a model, from its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from surgery.errors import TraceError
from surgery.graph.scope import forward_signature

TEXT_TOKENS = 77


def example_inputs(model: nn.Module, batch: int = 1) -> dict[str, Any]:
    """Keyword arguments of one forward call of a 2-D diffusers transformer, on the model's device.

    Latents are noise of the model's own size (B, C, H, W), text is `TEXT_TOKENS` random tokens.

    Raises:
        TraceError: the forward requires an input that cannot be told from the config.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise TraceError(f"{type(model).__name__} has no config to take input sizes from; pass the inputs yourself")
    first = next(model.parameters())
    inputs: dict[str, Any] = {}
    for name, parameter in forward_signature(type(model)).parameters.items():
        make = MAKERS.get(name)
        value = make(config, batch) if make else None
        if value is not None:
            inputs[name] = _like(value, first)
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            raise TraceError(
                f"{type(model).__name__}: cannot make up the input {name!r}; pass the inputs to surgery.trace"
            )
    return inputs


def _like(value: Any, parameter: torch.Tensor) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    dtype = parameter.dtype if value.is_floating_point() else value.dtype
    return value.to(device=parameter.device, dtype=dtype)


def _latents(config: Any, batch: int) -> torch.Tensor | None:
    channels, side = config.get("in_channels"), config.get("sample_size")
    if not (isinstance(channels, int) and isinstance(side, int)):
        return None
    return torch.randn(batch, channels, side, side)


def _timestep(config: Any, batch: int) -> torch.Tensor:  # noqa: ARG001
    return torch.full((batch,), 500)


def _labels(config: Any, batch: int) -> torch.Tensor | None:
    is_labelled = config.get("num_embeds_ada_norm") and config.get("norm_type", "ada_norm_zero") == "ada_norm_zero"
    return torch.zeros(batch, dtype=torch.long) if is_labelled else None


def _text(config: Any, batch: int) -> torch.Tensor | None:
    names = ("caption_channels", "joint_attention_dim", "text_embed_dim", "cross_attention_dim")
    width = next((config[name] for name in names if config.get(name)), None)
    return torch.randn(batch, TEXT_TOKENS, width) if width else None


def _pooled(config: Any, batch: int) -> torch.Tensor | None:
    width = config.get("pooled_projection_dim")
    return torch.randn(batch, width) if width else None


def _added(config: Any, batch: int) -> dict[str, None] | None:  # noqa: ARG001
    plain = "use_additional_conditions" in config and not config["use_additional_conditions"]
    return {"resolution": None, "aspect_ratio": None} if plain else None


MAKERS: dict[str, Callable[[Any, int], Any]] = {
    "hidden_states": _latents,
    "timestep": _timestep,
    "class_labels": _labels,
    "encoder_hidden_states": _text,
    "pooled_projections": _pooled,
    "added_cond_kwargs": _added,
}
