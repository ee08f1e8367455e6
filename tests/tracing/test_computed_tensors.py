"""Modules that keep tensors which autograd computed."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import TraceError


def test_a_kept_computed_tensor_is_refused_by_its_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(4, 4), torch.nn.utils.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(TraceError, match=r"1\.weight is computed from parameters"):
        surgery.trace(model, {"input": torch.randn(2, 4)})


def test_a_parametrisation_that_computes_in_the_forward_is_recorded() -> None:
    model, x = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), torch.randn(2, 4)
    assert torch.equal(surgery.trace(nn.Sequential(model), {"input": x}).module()(x), model(x))
