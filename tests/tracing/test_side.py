"""What a forward does besides computing is recorded, or refused by the line that does it."""

from __future__ import annotations

import copy
import random
import re
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

import surgery
from surgery.errors import TraceError
from tests.nightly import examples
from tests.tracing.exact import assert_exact
from tests.tracing.test_exact import assert_same


class Does(nn.Module):
    """A linear map, and then what a function makes of the module and its result."""

    def __init__(self, then: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)
        self.register_buffer("total", torch.zeros(4))
        self.seen = 0
        self.log: list[torch.Tensor] = []
        self.stats = {"calls": 0}
        self.last: torch.Tensor | None = None
        self.generator = torch.Generator()
        self.then = then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self, self.map(x))


class Clip(torch.autograd.Function):
    """Clamps, and lets gradients through that its forward would stop; takes and returns several tensors."""

    @staticmethod
    def forward(ctx, x, y, bound):
        return x.clamp(-bound, bound), y * x.shape[0]

    @staticmethod
    def backward(ctx, x, y):
        return x * 2, y, None


@torch.jit.script
def shares(x: torch.Tensor) -> torch.Tensor:
    return x / x.size(0) + x.size(1)


def clips(self: Does, x: torch.Tensor) -> torch.Tensor:
    first, second = Clip.apply(x, x * 2, 0.5)
    return first + second


def checkpoints(self: Does, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(lambda y: self.map(y).sin(), x, use_reentrant=True) + x


def asks_the_device(self: Does, x: torch.Tensor) -> torch.Tensor:
    small = x.device.type in ("cuda", "cpu") and not x.is_cuda
    return x.double() * 3 if small and x.get_device() == -1 else x


def keeps_no_gradient(self: Does, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scale = x.abs().max()
    return x / scale if x.requires_grad else x - scale


def sums_up(self: Does, x: torch.Tensor) -> torch.Tensor:
    self.total = self.total * 0.5 + x.detach().sum(dim=(0, 1))
    return x + self.total


def positions(self: Does, x: torch.Tensor) -> torch.Tensor:
    rows, rest = divmod(x.shape[1], 2)
    table = np.linspace(0.0, 1.0, x.shape[1]).astype(np.float32) * np.float32(rows) + rest
    return x + torch.from_numpy(table)[:, None] + torch.as_tensor(np.arange(4) / x.shape[0])


def makes_modules(self: Does, x: torch.Tensor) -> torch.Tensor:
    (bias,) = nn.ParameterList([self.map.bias, self.map.weight])[:1]
    return nn.Sequential(nn.Softmax(dim=-1), nn.Tanh())(x) + nn.LeakyReLU(0.5)(x) * bias


RECORDED = [clips, lambda self, x: shares(x), checkpoints, asks_the_device, keeps_no_gradient, sums_up, positions]
RECORDED += [makes_modules]
sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.booleans())


def example(size: tuple[int, int, bool]) -> dict[str, torch.Tensor]:
    batch, tokens, needs_grad = size
    return {"x": torch.randn(batch, tokens, 4, requires_grad=needs_grad)}


@examples(20)
@given(st.sampled_from(RECORDED), sizes, st.lists(sizes, min_size=1, max_size=2))
def test_it_is_recorded(then, first, others):
    assert_exact(Does(then), example(first), *map(example, others))


@pytest.mark.parametrize("then", RECORDED)
def test_the_gradient_mode_is_left_as_it_is(then):
    model = Does(then)
    traced = surgery.trace(copy.deepcopy(model), {"x": torch.randn(2, 3, 4)}).module()
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        assert_same(model(x), traced(x))
        assert not torch.is_grad_enabled()
    assert_same(model(x).requires_grad, traced(x).requires_grad)
    assert torch.is_grad_enabled()


KEEPING = {
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    "dropout of attention": lambda: nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True),
    "dropout between layers": lambda: nn.GRU(4, 4, 2, dropout=0.5, batch_first=True),
    "random slopes": nn.RReLU,
    "batch norm": lambda: nn.BatchNorm1d(4),
}


class Branches(nn.Module):
    """Calls a module of torch that draws random numbers or keeps something, and then asks for a size."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.inner = make()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attends, given = isinstance(self.inner, nn.MultiheadAttention), x.mT
        y = (
            self.inner(given, given, given)
            if attends
            else self.inner(x if type(self.inner) is nn.BatchNorm1d else given)
        )
        y = y[0] if isinstance(y, tuple) else y
        return y * 2 if x.shape[2] > 4 else y


@pytest.mark.parametrize("keeping", KEEPING)
@pytest.mark.parametrize("traced_in", [True, False])
def test_what_a_module_of_torch_does_besides_is_done_once(keeping, traced_in):
    model = Branches(KEEPING[keeping]).train(traced_in)
    traced = surgery.trace(copy.deepcopy(model), {"x": torch.randn(2, 4, 3)}).module().train()
    model.train()
    for seed, tokens in enumerate((3, 6, 4, 5)):
        x, results = torch.randn(2, 4, tokens), []
        for each in (model, traced):
            torch.manual_seed(seed)
            results.append((each(x), torch.rand(2), each.state_dict()))
        assert_same(*results)


def test_a_compiled_module_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), torch.compile(nn.Linear(3, 3), backend="eager"))
    with pytest.raises(TraceError, match=r"module '1': is made by torch\.compile"):
        surgery.trace(model, {"input": torch.randn(1, 3)})


def test_the_backward_of_an_autograd_function_is_its_own():
    model, x = Does(clips), torch.randn(2, 3, 4)
    traced = surgery.trace(model, {"x": x}).module()
    grads = [torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (model, traced)]
    assert_same(*grads)


def counts(self: Does, x: torch.Tensor) -> torch.Tensor:
    self.seen += 1
    return x * self.seen


def counts_in_a_dict(self: Does, x: torch.Tensor) -> torch.Tensor:
    self.stats["calls"] += 1
    return x * self.stats["calls"]


def keeps_in_a_list(self: Does, x: torch.Tensor) -> torch.Tensor:
    self.log.append(x)
    return x


def tries(self: Does, x: torch.Tensor) -> torch.Tensor:
    try:
        return x.view(x.shape[0], 7, -1)
    except RuntimeError:
        return x


def tries_a_module(self: Does, x: torch.Tensor) -> torch.Tensor:
    try:
        return self.map(x.flatten(1))
    except RuntimeError:
        return x


def exchanges(self: Does, x: torch.Tensor) -> torch.Tensor:
    weights = {name: tensor * 2 for name, tensor in self.map.named_parameters()}
    return torch.func.functional_call(self.map, weights, (x,))


def seeds(self: Does, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    return x + torch.rand_like(x)


REFUSED = {
    counts: "counts in seen",
    counts_in_a_dict: "counts in stats",
    keeps_in_a_list: "keeps tensors in log",
    tries: "catches an error.*ask for the sizes",
    tries_a_module: "catches an error.*ask for the sizes",
    exchanges: "'map' is called with other weights than its own",
    seeds: "torch.manual_seed",
    (lambda self, x: x * random.random()): "Python's random",
    (lambda self, x: x * float(np.random.rand())): "numpy.random",
    (lambda self, x: x + torch.rand(4, generator=torch.Generator())): "generator of its own",
    (lambda self, x: x + torch.rand(4, generator=self.generator)): "generator of its own, 'generator'",
}


@pytest.mark.parametrize(("then", "why"), REFUSED.items())
def test_it_is_refused_by_line(then, why):
    with pytest.raises(TraceError, match=why) as refused:
        surgery.trace(Does(then), {"x": torch.randn(2, 3, 4)})
    file, line = re.match(r"(.*?):(\d+): ", str(refused.value)).groups()
    assert file == sys.modules[__name__].__file__
    assert int(line) > 0


def test_the_global_generators_are_left_alone():
    model = Does(clips)
    states = random.getstate(), torch.get_rng_state()
    surgery.trace(model, {"x": torch.ones(2, 3, 4)})
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


class Keeps(nn.Module):
    """Keeps its last activation, which the next call uses, and tells that it has run."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)
        self.last: torch.Tensor | None = None
        self.has_run = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.last if self.has_run else x * 2
        self.last, self.has_run = self.map(x), True
        return self.last + before.mean()


class TwoKeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Keeps(), Keeps()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_kept_activations_are_those_of_the_model():
    model = TwoKeep()
    traced = surgery.trace(copy.deepcopy(model), {"x": torch.randn(1, 3)}).module()
    for batch in (1, 2, 1, 2, 3):
        x = torch.randn(batch, 3)
        assert_same(model(x), traced(x))
        assert_same(model.second.last, traced.second.last)
    again = surgery.trace(model, {"x": torch.randn(1, 3)}).module()  # its kept tensors are no leaves
    assert_same(model(x), again(x))


def test_weights_that_a_hook_computes_are_refused():
    with pytest.warns(FutureWarning):
        model = nn.Sequential(nn.Linear(3, 3), nn.utils.weight_norm(nn.Linear(3, 3), dim=0))
    with pytest.raises(TraceError, match="module '1': a hook computes its weight before each call"):
        surgery.trace(model, {"input": torch.randn(1, 3)})


class HasMethods(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.helper(x) + self.other(x)

    def helper(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def other(x: torch.Tensor) -> torch.Tensor:
        return x - 1


@pytest.mark.parametrize("name", ["forward", "helper", "other"])
def test_a_method_that_is_changed_after_tracing_counts(name, monkeypatch):
    model, x = nn.Sequential(HasMethods()), torch.randn(2, 3)
    traced = surgery.trace(model, {"input": x}).module()
    assert_same(model(x), traced(x))
    changed = staticmethod(lambda x: x * 5) if name == "other" else lambda self, x: x * 5
    monkeypatch.setattr(HasMethods, name, changed)
    assert_same(model(x), traced(x))
