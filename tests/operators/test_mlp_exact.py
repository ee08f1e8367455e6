"""The policy "exact" of MLPs: as many neurons or more, with the same activation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgery.errors import RewriteError
from surgery.operators import MLP, MLPDims, MLPMixer

DIMS = MLPDims(dim=4, out_dim=4, up_bias=True, down_bias=True, activation="gelu")


def old() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.GELU(), nn.Linear(12, 4)).double()


def build(**fields: object) -> MLPMixer:
    return MLP.model_validate(fields).build(DIMS).double()


@pytest.mark.parametrize("fields", [{"ratio": 3}, {"ratio": 5.5}, {"ratio": 3, "activation": "gelu"}])
def test_keeps_the_function(fields: dict[str, object]) -> None:
    new, x = build(**fields), torch.randn(2, 5, 4).double()
    new.inherit(old(), "exact")
    torch.testing.assert_close(new(x), old()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ratio": 2.75}, "it has 11 neurons, the old one 12"),
        ({"ratio": 4, "activation": "gelu_tanh"}, "its activation is gelu_tanh, the old one's gelu"),
    ],
)
def test_is_refused_with_the_reason(fields: dict[str, object], reason: str) -> None:
    new = build(**fields)
    fresh = new.up.weight.clone()
    with pytest.raises(RewriteError, match=reason):
        new.inherit(old(), "exact")
    assert torch.equal(new.up.weight, fresh)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(RewriteError, match="'some'"):
        build(ratio=3).inherit(old(), "some")  # type: ignore[arg-type]
