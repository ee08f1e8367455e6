"""One helper that compares a mixer with a naive twin, forward and gradient, in three precisions.

A twin is `naive(weights, x_BND) -> y_BND`, written with plain loops and sharing no code with the mixer.
Shape legend: B batch, N tokens, D features of the stream.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.operators import MixerConfig, MixerDims, SequenceMixer

Naive = Callable[[Mapping[str, Tensor], Tensor], Tensor]
# Largest error, relative to the norm of what is compared.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 4e-2}

all_dims = st.builds(
    MixerDims,
    dim=st.sampled_from([4, 8, 12]),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([2, 4, 8]),
    qkv_bias=st.booleans(),
    out_bias=st.booleans(),
)


def build(config: MixerConfig, dims: MixerDims, seed: int) -> SequenceMixer:
    """A float64 mixer with random weights."""
    torch.manual_seed(seed)
    return config.build(dims).double()


def tokens(batch: int, length: int, dims: MixerDims, seed: int) -> Tensor:
    """Random float64 tokens (B, N, D)."""
    return torch.randn(batch, length, dims.dim, generator=torch.Generator().manual_seed(seed)).double()


def assert_parity(
    mixer: nn.Module,
    naive: Naive,
    x_BND: Tensor,
    dtypes: Collection[torch.dtype] = tuple(TOLERANCE),
    gradients: Collection[torch.dtype] = tuple(TOLERANCE),
) -> None:
    """The mixer equals its twin, output and every gradient, in float64, float32 and bfloat16, or some of them.

    Gradients are compared in the dtypes `gradients` only: those of a norm have no bound near zero.
    """
    for dtype in dtypes:
        tolerance = TOLERANCE[dtype]
        tested = copy.deepcopy(mixer).to(dtype)
        input_BND = x_BND.to(dtype)
        # The twin gets the rounded weights and input: what is compared is the arithmetic alone.
        weights = {name: value.detach().double() for name, value in tested.named_parameters()}
        expected = _outcome(lambda values, x: naive(values, x), weights, input_BND.double())
        found = _outcome(
            lambda values, x, m=tested: torch.func.functional_call(m, dict(values), (x,)),
            {name: value.detach() for name, value in tested.named_parameters()},
            input_BND,
        )
        assert found["output"].dtype == dtype
        if dtype not in gradients:
            expected = {"output": expected["output"]}
        _assert_close(found, expected, tolerance, dtype)


def _outcome(run: Naive, weights: Mapping[str, Tensor], x_BND: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of a fixed random functional of it."""
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    leaves["input"] = x_BND.clone().requires_grad_()
    y_BND = run({name: value for name, value in leaves.items() if name != "input"}, leaves["input"])
    probe = torch.randn(y_BND.shape, generator=torch.Generator().manual_seed(0)).to(y_BND)
    gradients = torch.autograd.grad((y_BND * probe).sum(), list(leaves.values()))
    return {"output": y_BND.detach()} | dict(zip(leaves, gradients, strict=True))


def _assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, dtype: torch.dtype) -> None:
    # Some gradients vanish by symmetry (of the key bias, for one): they are measured against the average one.
    typical = sum(float(value.norm()) for value in expected.values()) / len(expected)
    for name, value in expected.items():
        error = float((found[name].double() - value).norm())
        assert error <= tolerance * (float(value.norm()) + typical), f"{name} in {dtype}: error {error:.3g}"


def assert_receptive_field(mixer: SequenceMixer, x_BND: Tensor, token: int, seen: set[int]) -> None:
    """Output `token` sees exactly the tokens `seen`: NaN elsewhere leaves it be, NaN in one spoils it."""
    with torch.no_grad():
        clean = mixer(x_BND)[:, token]
        outside = [j for j in range(x_BND.shape[1]) if j not in seen]
        poisoned = mixer(_poison(x_BND, outside))[:, token]
        assert torch.isfinite(poisoned).all()
        torch.testing.assert_close(poisoned, clean)
        for j in seen:
            assert torch.isnan(mixer(_poison(x_BND, [j]))[:, token]).all(), f"token {token} does not see {j}"


def _poison(x_BND: Tensor, where: list[int]) -> Tensor:
    poisoned = x_BND.clone()
    poisoned[:, where] = torch.nan
    return poisoned
