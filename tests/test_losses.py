"""The names that a rule may give a loss are those that there are losses of."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from surgery.losses import LOSSES, LossName


def test_every_name_has_a_loss() -> None:
    assert get_args(LossName) == tuple(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_zero_for_equal_tensors_only(name: str) -> None:
    target = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert LOSSES[name](target, target) == 0
    assert LOSSES[name](target + 1, target) > 0
