"""The Frechet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017, eq. 6).

Shapes: N samples, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surgery.errors import SurgeryError


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of features.

    Attributes:
        mean: (F,), float64.
        covariance: (F, F), float64.
    """

    mean: Tensor
    covariance: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """The Gaussian of features (N, F), with the unbiased covariance.

    Raises:
        SurgeryError: N is not larger than F, which leaves the covariance singular, or a value is not finite.
    """
    samples, size = features.shape
    if samples <= size:
        raise SurgeryError(
            f"{samples} samples are too few for a Frechet distance in {size} features: use at least {size + 1}"
        )
    if not torch.isfinite(features).all():
        raise SurgeryError("features for the Frechet distance are not finite: the model's samples hold NaN or infinity")
    features_NF = features.double()
    return Gaussian(features_NF.mean(0), torch.cov(features_NF.T).reshape(size, size))


def gaussian_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in squared units of the features.

    (C_a C_b)^(1/2) has the trace of (C_a^(1/2) C_b C_a^(1/2))^(1/2), which is symmetric: two eigen-decompositions of
    symmetric matrices replace a general matrix square root.
    """
    root_FF = _symmetric_root(a.covariance)
    eigenvalues_F = torch.linalg.eigvalsh(root_FF @ b.covariance @ root_FF)
    trace = a.covariance.trace() + b.covariance.trace() - 2 * eigenvalues_F.clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + trace.clamp(min=0))


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """The Frechet distance between features (N, F) and (M, F), in squared units of the features.

    Raises:
        SurgeryError: see `fit_gaussian`.
    """
    return gaussian_distance(fit_gaussian(features_a), fit_gaussian(features_b))


def _symmetric_root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric positive semi-definite matrix (F, F)."""
    eigenvalues_F, vectors_FF = torch.linalg.eigh(matrix)
    root_FF: Tensor = (vectors_FF * eigenvalues_F.clamp(min=0).sqrt()) @ vectors_FF.T
    return root_FF
