"""Train the denoiser of `fashion-dit`, for so many steps or so many minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.digits.data import CLASSES, Labelled
from surgery.digits.train import install
from surgery.training.optim import Optimizer, linear_weights, warmup_constant

ARCHITECTURE: dict[str, Any] = {
    "num_attention_heads": 5,
    "attention_head_dim": 24,
    "in_channels": 1,
    "out_channels": 1,
    "num_layers": 12,
    "sample_size": 28,
    "patch_size": 2,
    "num_embeds_ada_norm": CLASSES,
}
WARM = 10
"""Steps before the clock starts: the first ones compile."""


@dataclass(frozen=True)
class Training:
    """How the denoiser is trained; it ends with `steps`, or with `minutes` if there are any.

    Attributes:
        steps: updates of the weights.
        minutes: of training, without those of the first `WARM` steps; None counts steps.
        batch_size: samples in a step.
        lr: the largest learning rate; Muon has that of AdamW.
        warmup: steps in which it rises; afterwards it falls linearly to zero.
        weight_decay: of matrices.
        clip: the largest norm of the gradient of all parameters.
        ema_decay: the largest decay of the moving average of the weights.
        label_drop: the share of labels, 0 to 1, that the null class replaces.
        seed: of everything random.
        compiled: whether the loss runs through `torch.compile`.
    """

    steps: int = 16_000
    minutes: float | None = None
    batch_size: int = 512
    lr: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.999
    label_drop: float = 0.1
    seed: int = 0
    compiled: bool = True


class Clock:
    """How much of a training is done, by its steps or by its minutes."""

    def __init__(self, training: Training) -> None:
        self._training, self._start = training, time.monotonic()
        self.step = 0

    @property
    def done(self) -> float:
        """From 0 to 1."""
        if self._training.minutes is None:
            return self.step / self._training.steps
        return min(1.0, self.seconds / 60 / self._training.minutes)

    @property
    def seconds(self) -> float:
        """Since the start, which is after the first steps."""
        return time.monotonic() - self._start if self.step >= WARM else 0.0

    def tick(self) -> None:
        """Count a step."""
        self.step += 1
        if self.step == WARM:
            self._start = time.monotonic()

    @property
    def lr(self) -> float:
        """The learning rate of this step."""
        return warmup_constant(self.step, self._training.lr, self._training.warmup) * (1 - self.done)


def train(
    model: nn.Module,
    scheduler: Any,
    pictures: Labelled,
    training: Training,
    on_step: Callable[[Clock, Tensor, dict[str, Tensor]], None],
) -> Clock:
    """Train the model in place, on its device; at the end it holds the moving average of its weights.

    Args:
        model: from `build_model`.
        scheduler: from `build_scheduler`.
        pictures: to learn, on the model's device.
        training: how long and how fast.
        on_step: called after each step with the clock, the loss, and the averaged parameters by name.
    """
    parameters = dict(model.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = Optimizer(parameters, linear_weights(model), weight_decay=training.weight_decay)
    loss_of = denoising_loss_of(model, scheduler, training)
    device = pictures.images.device
    torch.manual_seed(training.seed)
    clock = Clock(training)
    while clock.done < 1:
        chosen = torch.randint(len(pictures.labels), (training.batch_size,), device=device)
        loss = loss_of(*pictures.select(chosen))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(list(parameters.values()), training.clip)
        optimizer.step(clock.lr)
        optimizer.zero_grad()
        decay = min(training.ema_decay, (1 + clock.step) / (10 + clock.step))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters.values()], 1 - decay)
        if device.type == "cuda" and clock.step < WARM:
            torch.cuda.synchronize(device)
        clock.tick()
        on_step(clock, loss.detach(), average)
    install(model, list(average.values()))
    return clock


def denoising_loss_of(model: nn.Module, scheduler: Any, training: Training) -> Callable[[Tensor, Tensor], Tensor]:
    """The function that gives the mean squared error of the noise found in pictures (B, 1, S, S) of classes (B,).

    Noise and timesteps are random, and a share of the labels becomes the null class (Ho & Salimans 2022). On a GPU
    matrices are multiplied in bfloat16.
    """
    alphas = scheduler.alphas_cumprod.to(next(model.parameters()).device)
    on_gpu = alphas.device.type == "cuda"

    def noise_found(noisy: Tensor, timestep: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
            found = model(noisy, timestep=timestep, class_labels=labels, return_dict=False)[0]
        return F.mse_loss(found.float(), noise)

    compiled = torch.compile(noise_found) if training.compiled else noise_found

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn_like(images)
        timestep = torch.randint(len(alphas), labels.shape, device=labels.device)
        dropped = torch.rand(labels.shape, device=labels.device) < training.label_drop
        alpha = alphas[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * images + (1 - alpha).sqrt() * noise
        return compiled(noisy, timestep, labels.masked_fill(dropped, CLASSES), noise)

    return loss
