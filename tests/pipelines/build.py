"""How a tiny pipeline is described and built: no weight is zero, so that no output is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import nn

from tests.classes import all_cases
from tests.pipelines.parts import clip, decoder_only, flow, t5, tokenizer


@dataclass(frozen=True)
class Tiny:
    """A pipeline to build.

    Attributes:
        pipeline: its class.
        transformer: class of the transformer, or the name of a case of tests/classes; `init` changes its configuration.
        parts: makes all other components.
        call: keywords of the pipeline for one sample.
    """

    pipeline: str
    transformer: str
    init: dict[str, Any]
    parts: Callable[[], dict[str, Any]]
    call: dict[str, Any]
    variant: str = ""

    @property
    def name(self) -> str:
        """What stands in the table."""
        return f"{self.pipeline}, {self.variant}" if self.variant else self.pipeline

    def build(self) -> Any:
        """The pipeline, the same at each call."""
        torch.manual_seed(0)
        parts = self.parts()
        model = made_transformer(self.transformer, self.init)
        for part in (model, *parts.values()):
            if isinstance(part, nn.Module):
                drawn_anew(part).eval()
        return getattr(diffusers, self.pipeline)(transformer=model, **parts)


def drawn_anew(model: nn.Module) -> nn.Module:
    """`model` with random weights throughout, also where it starts with zeros, that neither lose nor blow up signals."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(drawn / (parameter.numel() / len(parameter)) ** 0.5)
            else:
                parameter.copy_(0.1 * drawn + (1 if name.endswith("weight") else 0))
    return model


def made_transformer(name: str, init: dict[str, Any]) -> nn.Module:
    """The transformer of a case of tests/classes, with another configuration."""
    case = next(case for case in all_cases() if case.name == name)
    model: nn.Module = getattr(diffusers.models.transformers, case.class_name)(**{**case.init, **init})
    return model


def text_parts(kind: str = "t5", length: int = 16) -> dict[str, Any]:
    """A tokenizer and a text encoder."""
    made = {"t5": t5, "umt5": lambda: t5("umt5"), "clip": clip}.get(kind) or (lambda: decoder_only(kind))
    return {"tokenizer": tokenizer(length), "text_encoder": made()}


def with_text(kind: str, autoencoder: Callable[[], nn.Module], scheduler: Callable[[], Any] = flow) -> Any:
    """Makes one text encoder, an autoencoder and a scheduler."""

    def parts() -> dict[str, Any]:
        return {**text_parts(kind), "vae": autoencoder(), "scheduler": scheduler()}

    return parts
