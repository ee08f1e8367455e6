"""Joiners of a parallel block pair. Shape legend: … any leading dimensions, D features of the stream."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from surgery.errors import RewriteError
from surgery.operators import (
    ConcatProject,
    JoinerConfig,
    JoinerDims,
    SumDeltas,
    WeightedSum,
    ZeroJoin,
    operator_from_data,
)
from tests.nightly import examples
from tests.operators.parity import assert_parity

EVERY = [ConcatProject(), ConcatProject(start="random"), SumDeltas(), WeightedSum(), ZeroJoin()]


def naive(kind: str, weights: Mapping[str, Tensor], x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One output feature at a time."""
    columns = []
    for d in range(x.shape[-1]):
        if kind == "concat_project":
            row = weights["project.weight"][d]
            column = sum(row[e] * value for e, value in enumerate([*a.unbind(-1), *b.unbind(-1)]))
            column = column + weights["project.bias"][d]
        elif kind == "zero_join":
            change = sum(weights["project.weight"][d, e] * (b[..., e] - x[..., e]) for e in range(x.shape[-1]))
            column = a[..., d] + change + weights["project.bias"][d]
        else:
            w_a, w_b = (weights[name][d] if name in weights else 1 for name in ("weight_a", "weight_b"))
            column = (1 - w_a - w_b) * x[..., d] + w_a * a[..., d] + w_b * b[..., d]
        columns.append(column)
    return torch.stack(columns, -1)


class Stacked(torch.nn.Module):
    """A joiner of one tensor (3, …, D)."""

    def __init__(self, config: JoinerConfig, dim: int) -> None:
        super().__init__()
        self.joiner = config.build(JoinerDims(dim=dim)).double()
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter)

    def forward(self, streams: Tensor) -> Tensor:
        return self.joiner(*streams)


@examples(15)
@given(
    st.sampled_from(EVERY), st.integers(1, 6), st.lists(st.integers(1, 4), min_size=0, max_size=3), st.integers(0, 99)
)
def test_equals_the_naive_twin(config: JoinerConfig, dim: int, leading: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    assert_parity(
        Stacked(config, dim),
        lambda w, xab: naive(config.kind, {name.removeprefix("joiner."): each for name, each in w.items()}, *xab),
        torch.randn(3, *leading, dim).double(),
    )


@pytest.mark.parametrize("config", EVERY)
def test_starts_as_documented(config: JoinerConfig) -> None:
    x, a, b = torch.randn(3, 2, 5, 6).double()
    starts = {"sum_deltas": a + b - x, "weighted_sum": a + b - x, "zero_join": a, "concat_project": (a + b) / 2}
    joined = config.build(JoinerDims(dim=6)).double()(x, a, b)
    close = torch.allclose(joined, starts[config.kind])
    assert close == (config != ConcatProject(start="random"))


def test_params_of_fourteen_joiners_as_published() -> None:
    """Section 5 of the paper: 28 layers of DiT-XL/2 in 14 pairs, 37 million parameters more."""
    with torch.device("meta"):
        joiner = ConcatProject().build(JoinerDims(dim=1152))
    assert round(14 * sum(p.numel() for p in joiner.parameters()) / 1e6) == 37


def test_flops_by_hand() -> None:
    dims, d = JoinerDims(dim=8), 8
    by_hand = {"concat_project": 4 * d * d, "sum_deltas": 2 * d, "weighted_sum": 6 * d, "zero_join": 2 * d * d + 2 * d}
    for config in EVERY:
        joiner = config.build(dims)
        assert joiner.flops(2, 7) == config.flops(dims, 2, 7) == 14 * by_hand[config.kind]
        assert joiner.flops_mixing(2, 7) == config.flops_mixing(dims, 2, 7) == 0


@pytest.mark.parametrize("config", EVERY)
def test_refuses_streams_of_other_shapes(config: JoinerConfig) -> None:
    joiner, x = config.build(JoinerDims(dim=6)), torch.randn(2, 5, 6)
    for streams in ((x, x[:1], x), (x, x, x[:, :1]), (x[..., :5],) * 3):
        with pytest.raises(RewriteError, match=r"one shape \(\.\.\., 6\)"):
            joiner(*streams)


@pytest.mark.parametrize("config", EVERY)
def test_goes_to_plain_data_and_back(config: JoinerConfig) -> None:
    assert operator_from_data(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize("bad", [{"start": "sum"}, {"begin": "average"}, {"kind": "zero_join"}])
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ConcatProject.model_validate(bad)
