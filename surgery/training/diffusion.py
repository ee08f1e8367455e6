"""Everything about q(z_t | z): noised batches, and the loss of a denoiser on them.

Shapes: B batch size, C channels, H x W latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery.store.order import seeded
from surgery.training.data import LatentDataset, batch_indices
from surgery.training.scheduler import Scheduler


@dataclass(frozen=True)
class NoisedBatch:
    """Keywords of the model's forward for z_t, and what the model should predict.

    Attributes:
        inputs: hidden_states (B, C, H, W), timestep (B,) int64, and the conditions (B, ...).
        target: (B, C, H, W).
    """

    inputs: dict[str, Tensor]
    target: Tensor


def noised_batch(
    dataset: LatentDataset,
    scheduler: Scheduler,
    step: int,
    batch_size: int,
    seed: int,
    *,
    stage: str = "train",
    null_label: int | None = None,
    label_drop: float = 0.1,
    device: torch.device | str = "cpu",
) -> NoisedBatch:
    """z_t for t uniform over the scheduler's training steps, and its target.

    All randomness comes from (seed, stage, step), so a batch can be made again at any time.

    Args:
        dataset: what z is taken from.
        scheduler: holds q(z_t | z) and says what is predicted.
        step: number of the batch, from 0.
        batch_size: B.
        seed: of the choice of samples, of noise and timesteps.
        stage: another name gives other noise and timesteps.
        null_label: if given, replaces each class label with probability `label_drop`, which keeps classifier-free
            guidance working (Ho & Salimans 2022).
        label_drop: 0 to 1.
        device: where the batch goes.

    Raises:
        TrainingError: the scheduler predicts something that training does not know.
    """
    batch = dataset.select(batch_indices(len(dataset), batch_size, step, seed))
    generator = seeded(seed, stage, step)
    noise_BCHW = torch.randn(batch.latents.shape, generator=generator)
    timestep_B = torch.randint(scheduler.config.num_train_timesteps, (batch_size,), generator=generator)
    noised_BCHW = scheduler.add_noise(batch.latents, noise_BCHW, timestep_B)
    conditions = dict(batch.conditions)
    if null_label is not None and "class_labels" in conditions:
        dropped_B = torch.rand(batch_size, generator=generator) < label_drop
        conditions["class_labels"] = conditions["class_labels"].masked_fill(dropped_B, null_label)
    inputs = {"hidden_states": noised_BCHW, "timestep": timestep_B, **conditions}
    target_BCHW = _target(scheduler, batch.latents, noise_BCHW, timestep_B)
    return NoisedBatch({name: value.to(device) for name, value in inputs.items()}, target_BCHW.to(device))


def _target(scheduler: Scheduler, latents_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise_BCHW
    if kind == "sample":
        return latents_BCHW
    if kind == "v_prediction":
        return scheduler.get_velocity(latents_BCHW, noise_BCHW, timestep_B)
    raise TrainingError(f"the scheduler has prediction_type {kind!r}: training knows epsilon, sample and v_prediction")


def null_label(model: nn.Module) -> int | None:
    """The label that means "no class" to a class-conditional diffusers transformer, else None."""
    classes = getattr(getattr(model, "config", None), "num_embeds_ada_norm", None)
    return None if classes is None else int(classes)


def predict(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The first output of the model: the denoiser's prediction (B, C or 2C, H, W)."""
    return cast(Tensor, model(**inputs, return_dict=False)[0])


def without_sigma(output: Tensor, channels: int) -> Tensor:
    """The prediction (B, C, H, W) in a model's output (B, C or 2C, H, W), without a learned variance.

    Raises:
        TrainingError: the output has any other number of channels.
    """
    if output.shape[1] == 2 * channels:
        return output[:, :channels]
    if output.shape[1] != channels:
        raise TrainingError(
            f"the model returns {output.shape[1]} channels for latents of {channels}: the data do not fit it"
        )
    return output


def denoising_loss(output: Tensor, batch: NoisedBatch) -> Tensor:
    """The mean squared error (scalar) of a model's output (B, C or 2C, H, W) on a batch."""
    return F.mse_loss(without_sigma(output, batch.target.shape[1]), batch.target)
