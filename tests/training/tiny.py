"""Tiny models, data and progress for the tests of training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

from surgery.digits.data import Labelled
from surgery.digits.feed import digits_feed
from surgery.digits.pipeline import DigitsPipeline
from surgery.rewriting.lesson import ModuleLesson
from surgery.training.distil import Site
from surgery.training.wired import WiredData

SITE = "transformer_blocks.1.attn1"
OTHER_SITE = "transformer_blocks.0.attn1"


class Mixer(nn.Module):
    """A gated causal convolution over tokens with the calling convention of diffusers' Attention."""

    def __init__(self, width: int = 16, out: int | None = None) -> None:
        super().__init__()
        self.into = nn.Linear(width, 2 * width)
        self.filter = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.out = nn.Linear(width, out or width)

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        gate, value = self.into(hidden_states).chunk(2, dim=-1)
        mixed = self.filter(value.transpose(1, 2))[..., : value.shape[1]].transpose(1, 2)
        return self.out(gate * mixed)


@cache
def _teacher() -> nn.Module:
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=1,
        out_channels=1,
        num_layers=2,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)  # diffusers' zeros would make all blocks the identity
    return model


def teacher() -> nn.Module:
    return copy.deepcopy(_teacher())


def sites(teacher: nn.Module, student: nn.Module, losses: dict[str, Any]) -> list[Site]:
    """Lessons of the modules at the paths of `losses`."""
    return [Site(ModuleLesson(teacher, student, path), loss) for path, loss in losses.items()]


def student(*paths: str) -> nn.Module:
    """The teacher with a fresh Mixer at each path, the same one at each call."""
    model = teacher()
    for path in paths or (SITE,):
        torch.manual_seed(1)
        model.set_submodule(path, Mixer())
    return model


def scheduler() -> Any:
    return DDPMScheduler(num_train_timesteps=100)


@cache
def data(dtype: torch.dtype = torch.float32) -> WiredData:
    """60 pictures of noise, with labels, for a model of this dtype."""
    pictures = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    pipeline = DigitsPipeline(teacher().to(dtype).eval(), scheduler())
    return WiredData(digits_feed(pipeline, Labelled(pictures, torch.arange(60) % 10)), {"data": "noise"})


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class InterruptError(Exception):
    pass


class Interrupting:
    """A progress that shows nothing and raises once ``after`` more steps are done."""

    def __init__(self, after: int) -> None:
        self._left = after

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Interrupting]:
        yield self

    def say(self, line: str) -> None:
        pass

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        self._left -= steps
        if self._left == 0:
            raise InterruptError
