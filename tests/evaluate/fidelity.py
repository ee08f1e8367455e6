"""What torch-fidelity computes of features (N, F) and (M, F), and a stand-in for it where it is not installed."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgery.evaluate.frechet import Gaussian, gaussian_distance

NAME = "means-and-spreads"


class Extractor(nn.Module):
    """Means and standard deviations of the colours of pictures (N, 3, H, W), uint8."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    @staticmethod
    def get_default_feature_layer_for_metric(_: str) -> str:
        return "colours"

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        assert pictures.dtype == torch.uint8
        assert pictures.shape[1] == 3
        pixels = pictures.float().flatten(2) / 100
        return (torch.cat([pixels.mean(2), pixels.std(2)], 1),)


def statistics(features: Tensor) -> dict[str, Any]:
    return {"mu": features.double().mean(0).numpy(), "sigma": np.cov(features.double().numpy(), rowvar=False)}


def frechet(a: dict[str, Any], b: dict[str, Any]) -> float:
    one, other = (Gaussian(torch.as_tensor(each["mu"]), torch.as_tensor(each["sigma"])) for each in (a, b))
    return gaussian_distance(one, other)


def kernel_distance(samples: Tensor, real: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy under (x y / F + 1)^3; as many of both."""
    count = len(samples)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    same = sum(kernel(x, x).sum() - kernel(x, x).trace() for x in (samples, real)) / (count * (count - 1))
    return float(same - 2 * kernel(samples, real).mean())


def share_among(these: Tensor, those: Tensor, neighbours: int = 3) -> float:
    """How many of `these` are nearer to one of `those` than the third neighbour of that one."""
    radii = torch.cdist(those, those).sort(1).values[:, neighbours]
    return float((torch.cdist(these, those) <= radii).any(1).float().mean())


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `torch_fidelity` be what this file computes."""

    def kid(samples: Tensor, real: Tensor, kid_subset_size: int, **_: Any) -> dict[str, float]:
        assert kid_subset_size == len(samples) == len(real)
        return {"kid": kernel_distance(samples, real)}

    def shares(samples: Tensor, real: Tensor, prc_neighborhood: int, **_: Any) -> dict[str, float]:
        near = prc_neighborhood
        return {"precision": share_among(samples, real, near), "recall": share_among(real, samples, near)}

    registry = {NAME: Extractor}
    parts = {
        "": {},
        ".utils": {
            "FEATURE_EXTRACTORS_REGISTRY": registry,
            "create_feature_extractor": lambda name, layers, **options: registry[name](name, layers, **options),
        },
        ".metric_fid": {
            "fid_features_to_statistics": statistics,
            "fid_statistics_to_metric": lambda a, b, verbose: {"fid": frechet(a, b)},
        },
        ".metric_kid": {"KEY_METRIC_KID_MEAN": "kid", "kid_features_to_metric": kid},
        ".metric_prc": {"prc_features_to_metric": shares},
    }
    for part, content in parts.items():
        module = ModuleType(f"torch_fidelity{part}")
        module.__spec__ = ModuleSpec(module.__name__, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself, with the small extractor among its own."""
    utils = pytest.importorskip("torch_fidelity.utils", exc_type=ImportError)
    monkeypatch.setitem(utils.FEATURE_EXTRACTORS_REGISTRY, NAME, Extractor)
