"""Optional kernels: the choice among them, one clear error where one cannot serve, and parity with the PyTorch form.

Nothing needs to be installed: the choice is tested with versions and devices made up, the layouts with stand-ins on the
CPU, and the kernels themselves on a GPU where they are installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from surgery.errors import ConfigError, RewriteError
from surgery.operators import (
    GroupedQueryAttention,
    HyenaSE,
    HyenaX,
    HyenaXMLP,
    Mamba2,
    MixerConfig,
    MixerDims,
    MLPDims,
    NeighbourhoodAttention,
    SlidingWindow,
)
from surgery.operators.backends import BACKENDS, KernelCall, auto_choice, choice, softmax, table
from tests.operators import fake_kernels

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
NAMES = [each.name for each in BACKENDS]
QUERIES = (1, 16, 64, 72)
DIMS = MixerDims(dim=64, heads=4, head_dim=16, qkv_bias=True, out_bias=True)
MIXERS: list[MixerConfig] = [
    SlidingWindow(window=2, backend="flash-attn"),
    SlidingWindow(window=3, causal=True, backend="flash-attn"),
    SlidingWindow(window=2, backend="flash-attn-4"),
    SlidingWindow(window=3, causal=True, backend="flash-attn-4"),
    GroupedQueryAttention(groups=2, backend="flash-attn"),
    GroupedQueryAttention(groups=2, backend="flash-attn-4"),
    NeighbourhoodAttention(window=3, backend="natten"),
    NeighbourhoodAttention(window=3, grid=(4, 4, 4), backend="natten"),
    HyenaX(causal=True, backend="causal-conv1d"),
    HyenaSE(causal=True, kernel=3, backend="causal-conv1d"),
    Mamba2(causal=True, head_dim=16, backend="mamba-ssm"),
    Mamba2(head_dim=16, backend="mamba-ssm"),
]
FLEX = [
    SlidingWindow(window=2, backend="flex-attention"),
    SlidingWindow(window=70, causal=True, backend="flex-attention"),
    NeighbourhoodAttention(window=3, backend="flex-attention"),
    NeighbourhoodAttention(window=5, grid=(4, 4, 4), backend="flex-attention"),
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make exactly these packages seem to be there, on a GPU of this capability."""

    def install(*packages: str, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(table, "_version_of", lambda package, _: "9.9" if package in packages else None)
        monkeypatch.setattr(table, "capability", lambda _: capability)
        monkeypatch.setattr(softmax, "capability", lambda _: capability)

    return install


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, installed: Callable[..., None]) -> None:
    """Every kernel is there and serves every call, on a CPU too."""
    installed(*(each.package for each in BACKENDS))
    monkeypatch.setattr(choice, "BACKENDS", tuple(replace(each, refuses=lambda _: None) for each in BACKENDS))
    for name, made in fake_kernels.MODULES.items():
        monkeypatch.setitem(sys.modules, name, made)


def call(operator: str, shape: tuple[int, ...] = QUERIES, **traits: object) -> KernelCall:
    return KernelCall(operator, **{"device": CUDA, "dtype": torch.bfloat16, "shape": shape} | traits)  # type: ignore[arg-type]


def chosen(*arguments: object, **traits: object) -> str | None:
    found = auto_choice(call(*arguments, **traits))  # type: ignore[arg-type]
    return found and found.name


def test_auto_takes_what_is_installed_and_serves(installed: Callable[..., None]) -> None:
    installed("torch")
    assert chosen("sliding_window") is None
    installed("flash-attn", "flash-attn-4", "natten", "causal-conv1d", "mamba-ssm", "flash-linear-attention")
    assert chosen("sliding_window") == "flash-attn"
    assert chosen("sliding_window", (1, 4, 64, 512)) is None
    assert chosen("sliding_window", masked=True) is None
    assert chosen("sliding_window", dtype=torch.float32) is None
    assert chosen("sliding_window", device=CPU) is None
    assert chosen("neighbourhood_attention", window=7, grid=(8, 8)) == "natten"
    assert chosen("neighbourhood_attention", window=9, grid=(8, 8)) is None
    assert chosen("filter", (1, 64, 96), window=4, causal=True, grid=(64,)) == "causal-conv1d"
    assert chosen("filter", (1, 64, 96), window=4, causal=False, grid=(64,)) is None
    assert chosen("filter", (1, 64, 96), window=5, causal=True, grid=(64,)) is None
    assert chosen("filter", (1, 64, 97), window=4, causal=True, grid=(64,)) is None
    assert chosen("scan", (1, 64, 8, 16)) == "mamba-ssm"
    assert chosen("linear_attention") is None
    installed("flash-attn-4")
    assert chosen("grouped_query") == "flash-attn-4"
    assert chosen("sliding_window") == "flash-attn-4"
    assert chosen("sliding_window", grad=True) is None  # no windows in its backward pass there
    installed("flash-attn-4", capability=(10, 0))
    assert chosen("sliding_window", grad=True) == "flash-attn-4"
    installed("flash-attn", capability=(7, 5))
    assert chosen("sliding_window") is None


REFUSED = {
    "flash-attn": (call("sliding_window", dtype=torch.float32), "it takes float16 or bfloat16, and .* are float32"),
    "flash-attn-4": (call("grouped_query", (1, 8, 64, 12)), "a multiple of 8 features, and these have 12"),
    "natten": (call("neighbourhood_attention", window=9, grid=(4, 8)), "9 on 4 x 8 does not"),
    "flex-attention": (call("sliding_window", (1, 8, 64, 8)), "16 features at least, and these have 8"),
    "causal-conv1d": (call("filter", (1, 9, 8), window=7, causal=True, grid=(9,)), "2 to 4 taps, and .* has 7"),
    "mamba-ssm": (call("scan", device=CPU), "runs on CUDA devices, and the tensors are on cpu"),
    "flash-linear-attention": (call("linear_attention"), "is causal"),
}


@pytest.mark.parametrize("name", NAMES)
def test_says_why_it_does_not_serve(name: str, installed: Callable[..., None]) -> None:
    backend = BACKENDS[NAMES.index(name)]
    asked, words = REFUSED[name]
    installed()
    assert backend.serves(asked) == f"{backend.package} is not installed"
    installed(backend.package)
    reason = backend.serves(asked)
    assert reason is not None
    assert "\n" not in reason
    assert re.search(words, reason), reason


def outcome(
    config: MixerConfig, device: str, dtype: torch.dtype, grad: bool = True, rounded: torch.dtype | None = None
) -> list[torch.Tensor]:
    """The output and every gradient, of the same weights and tokens for every backend, rounded first."""
    torch.manual_seed(0)
    mixer = config.build(DIMS).to(rounded or dtype).to(device, dtype)
    x_BND = torch.randn(2, 64, 64).to(rounded or dtype).to(device, dtype).requires_grad_(grad)
    if not grad:
        with torch.no_grad():
            return [mixer(x_BND)]
    y_BND = mixer(x_BND)
    probe = torch.linspace(-1, 1, y_BND.numel()).view_as(y_BND).to(y_BND)
    return [y_BND.detach(), *torch.autograd.grad((y_BND * probe).sum(), [x_BND, *mixer.parameters()])]


def assert_same(config: MixerConfig, tolerance: float, device: str, dtype: torch.dtype, grad: bool = True) -> None:
    """The kernel gives what the PyTorch form gives in float64."""
    found = outcome(config, device, dtype, grad)
    exact = outcome(config.model_copy(update={"backend": "torch"}), "cpu", torch.float64, grad, dtype)
    typical = sum(float(each.norm()) for each in exact) / len(exact)
    for each, expected in zip(found, exact, strict=True):
        error = float((each.cpu().double() - expected).norm())
        assert error <= tolerance * (float(expected.norm()) + typical)


@pytest.mark.parametrize("config", MIXERS, ids=str)
def test_calls_a_kernel_in_its_own_layout(config: MixerConfig, stand_ins: None) -> None:
    """Against stand-ins with the signatures of the packages, forward and gradients."""
    assert_same(config, 1e-10, "cpu", torch.float64)


@pytest.mark.parametrize("config", FLEX, ids=str)
def test_calls_flex_attention_with_the_right_mask(
    config: MixerConfig, stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not compiled, and without gradients, which it has not on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(softmax, "_flex", lambda: flex_attention)
    assert_same(config, 1e-5, "cpu", torch.float32, grad=False)


@pytest.mark.parametrize("config", [*MIXERS, *FLEX], ids=str)
def test_a_kernel_that_is_not_there_is_one_clear_error(config: MixerConfig, installed: Callable[..., None]) -> None:
    installed()
    with pytest.raises(RewriteError, match=r"cannot be used: .* is not installed; use backend='auto' or 'torch'"):
        outcome(config, "cpu", torch.float32)


@pytest.mark.parametrize("config", [*MIXERS, *FLEX], ids=str)
def test_shapes_are_planned_without_the_kernel(config: MixerConfig, installed: Callable[..., None]) -> None:
    """A plan for a GPU can be made on a laptop."""
    installed()
    with torch.device("meta"):
        assert config.build(DIMS)(torch.empty(2, 64, 64)).shape == (2, 64, 64)


def test_a_mask_is_refused_by_a_kernel_that_takes_none(installed: Callable[..., None]) -> None:
    installed("flash-attn")
    assert BACKENDS[0].serves(call("sliding_window", masked=True)) == "it takes no mask"


def test_the_filters_of_an_mlp_too(stand_ins: None) -> None:
    dims = MLPDims(dim=8, out_dim=8, up_bias=True, down_bias=True, activation="gelu")
    outcomes = []
    for name in ("torch", "causal-conv1d"):
        torch.manual_seed(0)
        outcomes.append(HyenaXMLP(causal=True, backend=name).build(dims)(torch.ones(1, 5, 8)))
    torch.testing.assert_close(*outcomes)


@pytest.mark.parametrize("kind", [SlidingWindow, NeighbourhoodAttention, HyenaX, Mamba2])
def test_a_name_that_is_no_backend_of_the_operator(kind: type[MixerConfig]) -> None:
    with pytest.raises(ConfigError, match="backend"):
        kind(backend="cudnn")


KERNELS = [*MIXERS, *FLEX]


@pytest.mark.parametrize("config", KERNELS, ids=str)
def test_a_kernel_equals_the_pytorch_form(config: MixerConfig) -> None:
    """On a GPU, forward and gradients, in bfloat16."""
    backend = BACKENDS[NAMES.index(config.backend)]  # type: ignore[attr-defined]
    if not torch.cuda.is_available() or backend.version is None:
        pytest.skip(f"needs {backend.package} and a GPU")
    try:
        assert_same(config, 4e-2, "cuda", torch.bfloat16)
    except RewriteError as error:
        pytest.skip(str(error))
