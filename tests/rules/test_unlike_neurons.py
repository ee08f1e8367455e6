"""Narrower hidden layers: what is done to a neuron that stays is what was done to it before."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import surgery
from surgery.rules import mlp_ratio
from tests.rules.odd_blocks import DIM, Block, Mlp, Model, tokens


def halves(h: Tensor) -> Tensor:
    return torch.cat([F.relu(h[..., :6]), F.gelu(h[..., 6:])], -1)


def scaled(h: Tensor) -> Tensor:
    return F.gelu(torch.cat([h[..., :10] * 2, h[..., 10:]], -1))


def alike(h: Tensor) -> Tensor:
    return torch.cat([F.gelu(h[..., :6]), F.gelu(h[..., 6:])], -1)


class Own(Mlp):
    """An MLP with an activation of its own, whose last neurons contribute most."""

    def __init__(self, between) -> None:
        super().__init__()
        self.between = between
        with torch.no_grad():
            self.up.weight /= self.up.weight.norm(dim=1, keepdim=True)
            self.up.bias.zero_()
            self.down.weight *= (torch.arange(4 * DIM) + 1) / self.down.weight.norm(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.between(self.up(x)))


def model(between) -> Model:
    torch.manual_seed(0)
    found = Model(lambda: Block(lambda x, y: x + y), count=2)
    for block in found.blocks:
        block.mlp = Own(between)
    return found.double()


@pytest.mark.parametrize("neurons", [2, 8, 16, 20])
@pytest.mark.parametrize("between", [halves, scaled, alike])
def test_neurons_that_stay_are_treated_as_before(between, neurons):
    teacher, call = model(between), {"x": tokens()["x"].double()}
    student = surgery.rewrite(teacher, [mlp_ratio(neurons / DIM)], call)
    pruned = copy.deepcopy(teacher)
    keep = slice(4 * DIM - neurons, None) if between is alike else slice(neurons)
    for block in pruned.blocks:
        stays = torch.zeros(4 * DIM, dtype=torch.bool)
        stays[keep] = True
        block.mlp.down.weight.data[:, ~stays] = 0
    torch.testing.assert_close(student(**call), pruned(**call), rtol=0, atol=1e-12)
    assert student.blocks[0].mlp.up.out_features == neurons
