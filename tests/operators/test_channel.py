"""Channel mixers against naive twins. Shape legend: B batch, N tokens, D features of the stream, M neurons."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from surgery.errors import RewriteError
from surgery.operators import (
    MLP,
    ChannelConfig,
    ChannelMixer,
    ConvMLP,
    GatedMLP,
    HyenaXMLP,
    MLPDims,
    operator_from_data,
)
from tests.nightly import examples
from tests.operators.parity import assert_parity, assert_receptive_field
from tests.operators.twins import affine, filtered, kernel_seen

DIMS = MLPDims(dim=4, out_dim=4, up_bias=True, down_bias=True, activation="gelu")
DIT_XL_2 = MLPDims(dim=1152, out_dim=1152, up_bias=True, down_bias=True, activation="gelu_tanh")
ratios = st.floats(0.5, 3)
odd = st.sampled_from([1, 3, 5])
gated = st.builds(GatedMLP, ratio=ratios, gate=st.sampled_from(["swiglu", "geglu"]))
hyenas = st.builds(HyenaXMLP, ratio=ratios, kernel=st.integers(1, 5), causal=st.booleans())
all_dims = st.builds(
    MLPDims,
    dim=st.integers(1, 6),
    out_dim=st.integers(1, 6),
    up_bias=st.booleans(),
    down_bias=st.booleans(),
    activation=st.sampled_from(["gelu", "gelu_tanh", "silu", "relu"]),
)

ACT: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + (-x).exp()),
    "relu": lambda x: x * (x > 0),
}


def build(config: ChannelConfig, dims: MLPDims = DIMS, seed: int = 0) -> ChannelMixer:
    """A float64 mixer all of whose weights are random."""
    torch.manual_seed(seed)
    mixer = config.build(dims).double()
    for parameter in mixer.parameters():
        nn.init.normal_(parameter)
    return mixer


def check(config: ChannelConfig, naive: Callable[[Mapping[str, Tensor], Tensor], Tensor], dims, shape, seed) -> None:
    x_BND = torch.randn(*shape, dims.dim, generator=torch.Generator().manual_seed(seed)).double()
    assert_parity(build(config, dims, seed), naive, x_BND)


@examples(20)
@given(gated, all_dims, st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_a_gated_mlp_equals_its_twin(config: GatedMLP, dims: MLPDims, batch: int, length: int, seed: int) -> None:
    gelu = "gelu_tanh" if dims.activation == "gelu_tanh" else "gelu"
    act = ACT["silu" if config.gate == "swiglu" else gelu]

    def naive(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        rows = [affine(w, "down", act(affine(w, "gate", x[:, i])) * affine(w, "up", x[:, i])) for i in range(length)]
        return torch.stack(rows, 1)

    check(config, naive, dims, (batch, length), seed)


def around(i: int, rows: int, columns: int, kernel: int) -> dict[tuple[int, int], int]:
    """The token under each tap of the filter that lies on the grid."""
    taps = {}
    for r in range(kernel):
        for c in range(kernel):
            row, column = i // columns + r - kernel // 2, i % columns + c - kernel // 2
            if 0 <= row < rows and 0 <= column < columns:
                taps[r, c] = row * columns + column
    return taps


@examples(20)
@given(ratios, odd, all_dims, st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_a_filtering_mlp_equals_its_twin(
    ratio: float, kernel: int, dims: MLPDims, rows: int, columns: int, seed: int
) -> None:
    def naive(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        hidden, outputs = affine(w, "up", x), []
        for i in range(rows * columns):
            filtered_BM = w["conv.bias"].expand(len(x), -1)
            for (r, c), j in around(i, rows, columns, kernel).items():
                filtered_BM = filtered_BM + w["conv.weight"][:, 0, r, c] * hidden[:, j]
            outputs.append(affine(w, "down", ACT[dims.activation](filtered_BM)))
        return torch.stack(outputs, 1)

    grid = None if rows == columns else (rows, columns)
    check(ConvMLP(ratio=ratio, kernel=kernel, grid=grid), naive, dims, (2, rows * columns), seed)


@examples(20)
@given(hyenas, all_dims, st.integers(1, 3), st.integers(1, 8), st.integers(0, 99))
def test_hyena_x_equals_its_twin(config: HyenaXMLP, dims: MLPDims, batch: int, length: int, seed: int) -> None:
    def naive(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        q, k, v = filtered(w, "conv", affine(w, "up", x), config.kernel, config.causal).tensor_split(3, 2)
        return affine(w, "down", q * k * v)

    check(config, naive, dims, (batch, length), seed)


@given(st.integers(0, 11), odd)
def test_a_filtering_mlp_sees_its_kernel_and_nothing_else(i: int, kernel: int) -> None:
    mixer = build(ConvMLP(ratio=2, kernel=kernel, grid=(3, 4)))
    assert_receptive_field(mixer, torch.randn(2, 12, 4).double(), i, set(around(i, 3, 4, kernel).values()))


@given(hyenas, st.integers(0, 9))
def test_hyena_x_sees_its_kernel_and_nothing_else(config: HyenaXMLP, i: int) -> None:
    seen = {j for j in kernel_seen(i, 10, config.kernel, config.causal) if 0 <= j < 10}
    assert_receptive_field(build(config), torch.randn(2, 10, 4).double(), i, seen)


def old(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 12), activation, nn.Linear(12, 4)).double()


EXACT = [
    (GatedMLP(ratio=3), "silu", nn.SiLU()),
    (GatedMLP(ratio=4.5, gate="geglu"), "gelu", nn.GELU()),
    (GatedMLP(ratio=3, gate="geglu"), "gelu_tanh", nn.GELU("tanh")),
    (ConvMLP(ratio=3), "relu", nn.ReLU()),
    (ConvMLP(ratio=5, kernel=5), "gelu_tanh", nn.GELU("tanh")),
]


@pytest.mark.parametrize(("config", "activation", "module"), EXACT)
def test_keeps_the_function_of_the_old_mlp(config: ChannelConfig, activation: str, module: nn.Module) -> None:
    new = build(config, DIMS.model_copy(update={"activation": activation}))
    before, x = old(module), torch.randn(2, 9, 4).double()
    assert not torch.allclose(new(x), before(x))
    new.inherit(before, "exact")
    torch.testing.assert_close(new(x), before(x), rtol=1e-12, atol=1e-12)
    new(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in new.parameters())


@pytest.mark.parametrize("config", [MLP(ratio=1), GatedMLP(ratio=1, gate="geglu"), ConvMLP(ratio=1)])
def test_fewer_neurons_are_those_that_contribute_most(config: ChannelConfig) -> None:
    """Twelve old neurons of which eight do nothing."""
    before, x, new = old(nn.GELU()), torch.randn(2, 9, 4).double(), build(config)
    with torch.no_grad():
        before[2].weight[:, [0, 1, 2, 4, 5, 8, 9, 11]] *= 1e-9
    new.inherit(before, "projections")
    torch.testing.assert_close(new(x), before(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_hyena_x_takes_neurons_as_its_values(bias: bool) -> None:
    before = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.GELU(), nn.Linear(6, 4)).double()
    new, x = build(HyenaXMLP(ratio=2), DIMS.model_copy(update={"up_bias": bias})), torch.randn(2, 9, 4).double()
    q, k, _ = new.up(x).chunk(3, dim=2)
    new.inherit(before, "projections")
    expected = before[2](q[..., :6] * k[..., :6] * before[0](x))
    torch.testing.assert_close(new(x), expected)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GatedMLP(ratio=4), "its activation is silu, the old one's gelu"),
        (GatedMLP(ratio=2.75, gate="geglu"), "it has 11 neurons, the old one 12"),
        (ConvMLP(ratio=1), "it has 4 neurons, the old one 12"),
        (HyenaXMLP(ratio=8), "gates in place of an activation"),
    ],
)
def test_exact_is_refused_with_the_reason(config: ChannelConfig, reason: str) -> None:
    new = build(config)
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    with pytest.raises(RewriteError, match=reason):
        new.inherit(old(nn.GELU()), "exact")
    with pytest.raises(RewriteError, match="'some'"):
        new.inherit(old(nn.GELU()), "some")  # type: ignore[arg-type]
    new.inherit(old(nn.GELU()), "random")
    assert all(torch.equal(value, fresh[name]) for name, value in new.state_dict().items())


def test_hyena_x_costs_as_published() -> None:
    """Table 4 of the grafting paper: +.01, +.02, +.02 % FLOPs at 50, 75 and 100 % of the layers, without the filters."""
    before, after = (config.flops_mixing(DIT_XL_2, 1, 256) for config in (MLP(ratio=4), HyenaXMLP()))
    changes = [100 * part * (after - before) / before for part in (0.5, 0.75, 1)]
    assert changes == pytest.approx([0.01, 0.02, 0.02], abs=0.005)


def params(config: ChannelConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in config.build(DIT_XL_2).parameters())


def test_costs_by_hand() -> None:
    n, d, m = 256, 1152, 2304
    assert GatedMLP(ratio=2).flops(DIT_XL_2, 1, n) == 6 * n * d * m + n * m
    assert ConvMLP(ratio=2, kernel=5).flops(DIT_XL_2, 1, n) == 4 * n * d * m + 50 * n * m
    assert HyenaXMLP().flops(DIT_XL_2, 1, n) == 8 * n * d * m + 2 * n * m + 24 * n * m
    assert params(GatedMLP(ratio=2)) == 3 * d * m + 2 * m + d
    assert params(ConvMLP(ratio=2, kernel=5)) == 2 * d * m + m + 26 * m + d
    assert params(HyenaXMLP()) == 4 * d * m + 3 * m + 15 * m + d
    for config in (GatedMLP(ratio=2), ConvMLP(ratio=2), HyenaXMLP()):
        mixer = config.build(DIMS)
        assert mixer.flops(3, 9) == config.flops(DIMS, 3, 9) == 3 * config.flops(DIMS, 1, 9)
        assert mixer.flops_mixing(3, 9) == config.flops_mixing(DIMS, 3, 9)


@pytest.mark.parametrize("config", [ConvMLP(ratio=2), HyenaXMLP()])
@pytest.mark.parametrize("shape", [(2, 9, 5), (9, 4), (2, 3, 3, 4)])
def test_refuses_other_shapes(config: ChannelConfig, shape: tuple[int, ...]) -> None:
    with pytest.raises(RewriteError, match=r"\(batch, tokens, 4\)"):
        build(config)(torch.randn(shape).double())


def test_refuses_tokens_beside_the_grid() -> None:
    with pytest.raises(RewriteError, match="8 tokens do not lie on a square grid"):
        build(ConvMLP(ratio=2))(torch.randn(2, 8, 4).double())


@pytest.mark.parametrize("length", [4, 9, 16])
@pytest.mark.parametrize("config", [GatedMLP(ratio=2), ConvMLP(ratio=2), HyenaXMLP()])
def test_works_at_every_resolution(config: ChannelConfig, length: int) -> None:
    with torch.device("meta"):
        assert config.build(DIMS)(torch.empty(2, length, 4)).shape == (2, length, 4)


@given(st.one_of(gated, hyenas, st.builds(ConvMLP, ratio=ratios, kernel=odd, grid=st.sampled_from([None, (2, 3)]))))
def test_goes_to_plain_data_and_back(config: ChannelConfig) -> None:
    assert operator_from_data(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("kind", "bad"),
    [(GatedMLP, {"ratio": 2, "gate": "glu"}), (ConvMLP, {"ratio": 2, "kernel": 4}), (HyenaXMLP, {"ratio": 0})],
)
def test_refuses_a_bad_config(kind: type[ChannelConfig], bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(bad)
