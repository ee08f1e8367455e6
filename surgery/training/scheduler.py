"""What training and sampling need of a diffusers scheduler."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Scheduler(Protocol):
    """A scheduler that holds q(z_t | z), such as diffusers' DDPMScheduler.

    Shapes: B batch size; latents and noise are (B, C, H, W), timesteps (B,) int64.
    """

    @property
    def config(self) -> Any:
        """Its settings, by attribute and as a mapping."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t: the latents with this noise at these timesteps."""

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity, which a model with `prediction_type` "v_prediction" predicts (Salimans & Ho 2022)."""

    def save_pretrained(self, save_directory: Any) -> None:
        """Write its config into a folder."""
