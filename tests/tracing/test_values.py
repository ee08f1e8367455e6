"""Models that read values of tensors: integers and masks are followed, floating-point branches refused by line."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgery
from surgery.errors import TraceError
from tests.nightly import examples
from tests.tracing.exact import assert_exact


class Cropped(nn.Module):
    """Keeps as many tokens as the longest of a batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        longest = int(lengths.max().item())
        mask = torch.arange(longest, device=x.device)[None] < lengths[:, None]
        return self.proj(x[:, :longest]) * mask[..., None]


lengths = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def tokens(numbers: list[int]) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(len(numbers), 6, 3), "lengths": torch.tensor(numbers)}


@examples(15)
@given(lengths, st.lists(lengths, min_size=1, max_size=3))
def test_a_number_that_is_read_may_be_a_size(example, others):
    assert_exact(Cropped(), tokens(example), *map(tokens, others))


class Packed(nn.Module):
    """Works on the valid tokens of all samples in one row, and puts them back."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if mask.all():
            return self.proj(x)
        out = torch.zeros_like(x)
        out[mask] = self.proj(x[mask])
        return out


masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=3)


@examples(15)
@given(masks, st.lists(masks, min_size=1, max_size=3))
def test_a_mask_may_select_tokens_and_branches(example, others):
    calls = [{"x": torch.randn(len(m), 4, 3), "mask": torch.tensor(m)} for m in (example, *others)]
    assert_exact(Packed(), *calls)


class Unrolled(nn.Module):
    def forward(self, x: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
        rows = [x[: h * w].reshape(h, w).sum(0) for h, w in shapes.tolist()]
        return torch.cat(rows)


def test_a_list_that_is_read_may_be_looped_over():
    calls = [{"x": torch.randn(12), "shapes": torch.tensor(s)} for s in ([[2, 3], [3, 4]], [[1, 5], [2, 2]], [[4, 3]])]
    assert_exact(Unrolled(), *calls)


class Branches(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "bool":
            return x if (x > 0).all() else -x
        if self.how == "item":
            return x if x.mean().item() > 0 else -x
        if self.how == "float":
            return x if float(x.amax()) < 1 else -x
        while x.norm() > 1:
            x = x / 2
        return x


class Around(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.before, self.inner, self.after = nn.Linear(3, 3), Branches(how), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.inner(self.before(x)))


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("how", ["bool", "item", "float", "loop"])
def test_a_branch_on_floating_point_values_is_refused_by_line_and_a_leaf_heals_it(how):
    model, example = Around(how), {"x": torch.randn(2, 3)}
    with pytest.raises(TraceError, match=r"test_values.py:\d+: a branch depends on floating-point values.*a leaf"):
        surgery.trace(model, example)
    graph = surgery.trace(model, example, leaf=["inner"])
    assert "inner" not in graph.scopes
    traced = graph.module()
    for seed in range(6):
        x = torch.randn(seed + 1, 3, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(model(x), traced(x))


def test_the_meta_device_has_no_values_to_read():
    example = {"x": torch.randn(1, 6, 3, device="meta"), "lengths": torch.ones(1, dtype=torch.long, device="meta")}
    with pytest.raises(TraceError, match=r"test_values.py:\d+: .*reads the values.*trace it with real inputs"):
        surgery.trace(Cropped().to("meta"), example)


def test_a_leaf_that_does_not_exist_is_named():
    with pytest.raises(TraceError, match="leaf='innner': Around has no such module"):
        surgery.trace(Around("bool"), {"x": torch.randn(2, 3)}, leaf=["innner"])
