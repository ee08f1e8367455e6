"""Train the denoiser of `digits-dit` from a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

from surgery.digits.data import CLASSES, Labelled
from surgery.store.order import Order, seeded
from surgery.training.source import predict

ARCHITECTURE: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 16,
    "in_channels": 1,
    "out_channels": 1,
    "num_layers": 8,
    "sample_size": 8,
    "patch_size": 1,
    "num_embeds_ada_norm": CLASSES,
}
# 64 pixels lose their class at a higher signal-to-noise ratio than large images do, so the cosine schedule wastes fewer
# of the steps on pure noise than the linear one (Nichol & Dhariwal 2021, section 3.2). Pixels lie in [-1, 1].
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "clip_sample": True,
}


@dataclass(frozen=True)
class Training:
    """How the denoiser is trained; the defaults made the shipped weights.

    Attributes:
        steps: updates of the weights.
        batch_size: samples in a step.
        lr: the largest learning rate.
        warmup: steps in which the learning rate rises to `lr`.
        weight_decay: of AdamW.
        clip: the largest norm of the gradient of all parameters.
        ema_decay: the largest decay of the moving average of the weights.
        label_drop: the share of labels, 0 to 1, that the null class replaces.
        seed: of everything random.
    """

    steps: int = 4500
    batch_size: int = 64
    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.999
    label_drop: float = 0.1
    seed: int = 0


def build_model(seed: int, architecture: dict[str, Any] = ARCHITECTURE) -> Any:
    """The untrained DiTTransformer2DModel, initialised like DiT: each block starts as the identity.

    Source: Peebles & Xie 2023, section 3.2 (adaLN-Zero), and their released initialisation.
    """
    torch.manual_seed(seed)
    model = DiTTransformer2DModel(**architecture)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for block in model.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        for embedder in (
            block.norm1.emb.timestep_embedder.linear_1,
            block.norm1.emb.timestep_embedder.linear_2,
        ):
            nn.init.normal_(embedder.weight, std=0.02)
        nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.02)
    for head in (model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(head.weight)
    # Labels are dropped in the batch: in train() mode each block would drop its own, independently of the others.
    return model.eval()


def build_scheduler() -> Any:
    """The DDPMScheduler that holds q(z_t | z)."""
    return DDPMScheduler(**SCHEDULE)


def learning_rate(step: int, training: Training) -> float:
    """The learning rate at `step`, counted from 0: linear warm-up, then a cosine down to zero."""
    if step < training.warmup:
        return training.lr * (step + 1) / training.warmup
    done = (step - training.warmup) / max(1, training.steps - training.warmup)
    return training.lr * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: Any,
    scheduler: Any,
    digits: Labelled,
    training: Training,
    on_step: Callable[[int, float, Any], None],
) -> None:
    """Train the model in place; at the end it holds the exponential moving average of its weights.

    Args:
        model: from `build_model`.
        scheduler: from `build_scheduler`.
        digits: to learn.
        training: how long and how fast.
        on_step: called after each step with the number of steps done, the loss, and the averaged parameters.
    """
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay, fused=True)
    order = Order([0] * len(digits.labels), training.batch_size, training.seed)
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, training)
        batch = digits.select(torch.tensor(order.batch(step)))
        loss = denoising_loss(model, scheduler, batch, training.label_drop, seeded(training.seed, "train", step))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, training.clip)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(training.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        on_step(step + 1, loss.item(), average)
    install(model, average)


def denoising_loss(
    model: Any, scheduler: Any, digits: Labelled, label_drop: float, generator: torch.Generator
) -> Tensor:
    """The mean squared error of the noise that the model finds in `digits`, a scalar, at random noise and timesteps.

    A share `label_drop` of the labels becomes the null class, as classifier-free guidance needs it (Ho & Salimans 2022).
    """
    images, labels = digits
    noise = torch.randn(images.shape, generator=generator)
    timestep = torch.randint(scheduler.config.num_train_timesteps, labels.shape, generator=generator)
    dropped = torch.rand(labels.shape, generator=generator) < label_drop
    inputs = {
        "hidden_states": scheduler.add_noise(images, noise, timestep),
        "timestep": timestep,
        "class_labels": labels.masked_fill(dropped, CLASSES),
    }
    return F.mse_loss(predict(model, inputs), noise)


@torch.no_grad()
def install(model: Any, average: list[torch.Tensor]) -> None:
    """Write the averaged parameters into the model."""
    for parameter, value in zip(model.parameters(), average, strict=True):
        parameter.copy_(value)


def printer(every: int, total: int) -> Callable[[int, float, Any], None]:
    """An `on_step` of `train` that prints the mean loss of every `every` of `total` steps."""
    losses: list[float] = []
    start = time.monotonic()

    def on_step(step: int, loss: float, average: Any) -> None:  # noqa: ARG001
        losses.append(loss)
        if step % every == 0 or step == total:
            seconds = time.monotonic() - start
            print(f"step {step}/{total}  loss {sum(losses) / len(losses):.4f}  {seconds:.0f} s", flush=True)
            losses.clear()

    return on_step
