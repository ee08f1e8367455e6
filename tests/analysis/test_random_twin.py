"""Claims about modules of many weights are shown on sparse twins, which take neither the memory nor the time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery.analysis.random_twin import LARGE, SparseMaps, random_tokens, random_twin
from surgery.errors import MatchError
from surgery.operators import MLP
from surgery.rules import replace_mlp

WIDTH = 1024


class MLPAs(nn.Module):
    """Two large linear maps, used as a formula says."""

    def __init__(self, formula) -> None:
        super().__init__()
        self.up, self.down, self.formula = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


class Block(nn.Module):
    def __init__(self, formula) -> None:
        super().__init__()
        self.norm, self.ff = nn.LayerNorm(WIDTH), MLPAs(formula)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ff(self.norm(x))


OTHER = {
    "one feature off": lambda m, x: m.down(F.gelu(m.up(x * (torch.arange(WIDTH, device=x.device) != 7)))),
    "twice": lambda m, x: m.down(F.gelu(m.up(x)) * 2),
}


def planned(formula) -> surgery.Plan:
    with torch.device("meta"):
        model, x = nn.Sequential(Block(formula)).eval(), torch.empty(2, 4, WIDTH)
    return surgery.plan(model, [replace_mlp(MLP(ratio=1))], {"input": x})


def test_a_sparse_map_reads_every_feature_and_is_linear():
    maps = SparseMaps()
    twin = random_twin(nn.Linear(2 * WIDTH, WIDTH), maps)
    assert twin.weight.is_meta
    one = torch.eye(2 * WIDTH, dtype=torch.float64)
    with torch.no_grad(), maps:
        effect = twin(one) - twin.bias
        x = random_tokens(3, 2 * WIDTH)
        torch.testing.assert_close(twin(x), x @ effect + twin.bias)
    assert effect.any(1).all()
    assert effect.any(0).all()


def test_only_large_matrices_are_sparse():
    assert not random_twin(nn.Linear(8, 8), SparseMaps()).weight.is_meta
    assert nn.Linear(WIDTH, WIDTH).weight.numel() >= LARGE


def test_a_large_plain_mlp_is_replaced():
    assert len(planned(lambda m, x: m.down(F.gelu(m.up(x)))).edits) == 1


@pytest.mark.parametrize("formula", OTHER)
def test_another_large_one_is_not(formula):
    with pytest.raises(MatchError, match="is no plain MLP"):
        planned(OTHER[formula])
