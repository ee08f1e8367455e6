"""The hidden layer of an MLP: random ones, gated or not, beside other features or not, in one module or in several."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.errors import MatchError
from surgery.rules import mlp_ratio
from tests.nightly import examples


@dataclass(frozen=True)
class Spec:
    """A random MLP."""

    dim: int
    neurons: int
    gate: str
    beside: str
    bias: bool
    inline: bool
    seed: int


CUTS: dict[str, Callable[[Tensor, int], Sequence[Tensor]]] = {
    "fixed split": lambda h, n: h.split(n, dim=-1),
    "fixed and the rest": lambda h, n: torch.split(h, [n, h.shape[-1] - n], -1),
    "fixed sizes": lambda h, n: h.split((n, n), 2),
    "fixed slices": lambda h, n: (h[..., :n], h[:, :, n:]),
    "from the end": lambda h, n: (h[..., :-n], h[..., -n:]),
    "narrow": lambda h, n: (h.narrow(-1, 0, n), h.narrow(-1, n, n)),
    "at one place": lambda h, n: h.tensor_split([n], dim=-1),
    "unflatten": lambda h, n: h.unflatten(-1, (2, n)).unbind(-2),
    "view": lambda h, n: h.view(*h.shape[:2], 2, n).permute(2, 0, 1, 3),
    "reshape and select": lambda h, n: (h.reshape(*h.shape[:2], 2, n)[:, :, 0], h.unflatten(2, (2, n)).select(2, 1)),
    "pairs": lambda h, n: h.unflatten(-1, (n, 2)).unbind(-1),
    "pairs by view": lambda h, n: h.view(*h.shape[:-1], n, 2).movedim(-1, 0),
    "every second": lambda h, n: (h[..., ::2], h[..., 1::2]),
    "every second up to": lambda h, n: (h[..., 0 : 2 * n : 2], h[..., 1 : 2 * n : 2]),
}
"""Ways to take a tensor of 2 n features apart; most of them name n."""

PAIRS = {"pairs", "pairs by view", "every second", "every second up to"}

specs = st.builds(
    Spec,
    dim=st.integers(2, 6),
    neurons=st.integers(3, 9),
    gate=st.sampled_from(["none", "chunk", "slice", "split", "two", *CUTS]),
    beside=st.sampled_from(["none", "before", "after"]),
    bias=st.booleans(),
    inline=st.booleans(),
    seed=st.integers(0, 99),
)


class Hidden(nn.Module):
    """All between the linear maps."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.act = spec, nn.GELU()

    def forward(self, h: Tensor, gate: Tensor | None, x: Tensor) -> Tensor:
        kind = self.spec.gate
        if kind == "chunk":
            h, gate = h.chunk(2, dim=-1)
        elif kind == "slice":
            h, gate = h[..., : h.shape[-1] // 2], h[..., h.shape[-1] // 2 :]
        elif kind == "split":
            h, gate = torch.split(h, h.shape[-1] // 2, dim=-1)
        h = self.act(h) if gate is None else F.silu(gate) * (0.5 * h)
        if self.spec.beside == "before":
            return torch.cat([x.flip(-1), h], -1)
        return torch.cat((h, x.flip(-1)), dim=2) if self.spec.beside == "after" else h


class Mixer(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        twice = spec.gate not in ("none", "two")
        self.up = nn.Linear(spec.dim, spec.neurons * (1 + twice), bias=spec.bias)
        self.gate = nn.Linear(spec.dim, spec.neurons, bias=not spec.bias) if spec.gate == "two" else None
        self.hidden = Hidden(spec)
        self.down = nn.Linear(spec.neurons + spec.dim * (spec.beside != "none"), spec.dim, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.up(x), None if self.gate is None else self.gate(x)
        if self.spec.gate in CUTS:
            h, gate = CUTS[self.spec.gate](h, self.spec.neurons)
        return self.down(self.hidden(h, gate, x))


class Block(Mixer):
    """An MLP that is no module of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Around(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.mlp = Mixer(spec)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class Model(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.blocks = nn.ModuleList([(Block if spec.inline else Around)(spec).double()])

    @property
    def mixer(self) -> Mixer:
        return self.blocks[0] if isinstance(self.blocks[0], Mixer) else self.blocks[0].mlp

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def weights_of(mixer: Mixer, spec: Spec, neuron: int) -> list[Tensor]:
    """The rows of the linear maps into one neuron, biases beside them, and the column out of it."""
    rows = [neuron, neuron + spec.neurons][: 1 + (len(mixer.up.weight) == 2 * spec.neurons)]
    if spec.gate in PAIRS:
        rows = [2 * neuron, 2 * neuron + 1]
    ups = [(mixer.up, row) for row in rows] + ([] if mixer.gate is None else [(mixer.gate, neuron)])
    column = neuron + spec.dim * (spec.beside == "before")
    entering = [(up.weight[row], *(() if up.bias is None else (up.bias[row : row + 1],))) for up, row in ups]
    return [*map(torch.cat, entering), mixer.down.weight[:, column]]


@examples(30)
@given(specs, st.floats(0.2, 4))
def test_the_neurons_that_contribute_most_stay(spec, ratio):
    model, x = Model(spec), torch.randn(2, 3, spec.dim).double()
    student = surgery.rewrite(model, [mlp_ratio(ratio)], {"x": x})
    neurons = max(1, round(ratio * spec.dim))
    assert student.mixer.down.in_features - neurons == spec.dim * (spec.beside != "none")
    twin, scores = copy.deepcopy(model), []
    for neuron in range(spec.neurons):
        scores.append(torch.stack([part.float().norm() for part in weights_of(twin.mixer, spec, neuron)]).prod().item())
    order = sorted(range(spec.neurons), key=lambda i: -scores[i])
    for neuron in order[neurons:]:  # those that are gone contribute nothing
        weights_of(twin.mixer, spec, neuron)[-1].data.zero_()
    torch.testing.assert_close(student(x), twin(x), rtol=0, atol=1e-12)
    assert surgery.undo(student)(x).equal(model(x))


@examples(10)
@given(specs, st.floats(0.2, 4))
def test_the_plan_counts_what_the_student_has(spec, ratio):
    model, x = Model(spec), torch.randn(2, 3, spec.dim).double()
    plan = surgery.plan(model, [mlp_ratio(ratio)], {"x": x})
    student = surgery.rewrite(model, [mlp_ratio(ratio)], {"x": x})
    assert plan.total.params.after == sum(p.numel() for p in student.parameters())
    assert plan.total.flops.after == surgery.trace(student, {"x": x}).flops


PLAIN = Spec(dim=4, neurons=6, gate="none", beside="none", bias=True, inline=True, seed=0)


class Halves(nn.Module):
    """Takes apart what another module has made; by itself it cannot be recorded again as it was."""

    def forward(self, h: Tensor) -> Tensor:
        return h[..., :6] * F.silu(h[..., 6:])


class Apart(Block):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.halves = Halves()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.halves(self.up(x)))


class Rotated(Block):
    """Its pairs are no two halves, nor do they stand side by side."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        return x + self.down(h[..., :6] * F.silu(h[..., 6:].flip(-1)))


class Normed(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.layer_norm(F.gelu(self.up(x)), (6,)))


class Peeked(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.up(x))
        return x + self.down(h) + h.mean(-1, keepdim=True)


class Functional(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(F.linear(x, self.up.weight, self.up.bias)))


REFUSED = {
    Apart: r"blocks.0.halves takes its neurons apart by fixed numbers, but does not make them",
    Rotated: r"down reads several hidden layers, or neurons in no order; only one can be changed",
    Normed: r"between down and the linear maps before it comes layer_norm, which is not understood",
    Peeked: r"mean reads its neurons too",
    Functional: r"linear is a function of parameters; only linear layers can change their width",
}


@pytest.mark.parametrize("block", REFUSED, ids=lambda block: block.__name__)
def test_what_is_skipped_and_why(block):
    spec = dataclasses.replace(PLAIN, gate="chunk") if block in (Apart, Rotated) else PLAIN
    model = Model(spec)
    model.blocks[0] = block(spec).double()
    with pytest.raises(MatchError, match=REFUSED[block]):
        surgery.plan(model, [mlp_ratio(2)], {"x": torch.randn(2, 3, 4).double()})


def test_exact_needs_as_many_neurons():
    with pytest.raises(MatchError, match=r"has 6 neurons, whose function 4 cannot keep; use inherit='projections'"):
        surgery.plan(Model(PLAIN), [mlp_ratio(1, inherit="exact")], {"x": torch.randn(2, 3, 4).double()})
