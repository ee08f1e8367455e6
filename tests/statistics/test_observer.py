"""What an observer adds up is what a direct computation gives, for attention of any kind, and it holds no activations."""

from __future__ import annotations

import gc
import math
import weakref
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgery.statistics import observer
from surgery.statistics.multihead import queries_and_keys
from surgery.statistics.observer import Observer
from surgery.tracing import trace
from tests.classes import all_cases
from tests.classes.check import randomised, same_bits
from tests.statistics import direct

CASES = {case.name: case for case in all_cases()}
SHOWN = ("locality", "entropy", "sink", "key_mean")
KINDS = {
    "plain": "DiTTransformer2DModel",
    "masked": "PixArtTransformer2DModel",
    "joint": "SD3Transformer2DModel",
    "at a core made of nodes": "FluxTransformer2DModel",
    "space and time": "LatteTransformer3DModel",
}


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_every_attention_has_the_figures_of_the_formulas(name):
    case = CASES[name]
    model, observer = randomised(case.model()), Observer(randomised(case.model()))
    with torch.no_grad(), direct.attention_seen() as seen:
        expected = model(**case.example())
    with torch.no_grad():
        assert same_bits(expected, observer(case.example()))
    found = [o for layer in observer.layers() for o in layer["operators"] if "entropy" in o]
    assert len(found) == len(seen)
    for operator, call in zip(found, seen, strict=True):
        computed = direct.figures_of_call(call)
        assert {n: operator[n] for n in SHOWN if n in operator} == pytest.approx(computed, abs=1e-9)


class Written(nn.Module):
    """Softmax attention that is written out, with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        scores = (q * 4**-0.5) @ k.transpose(-1, -2) + bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff = Written(), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attn(x, bias)
        return x + 0.5 * self.ff(x)


class Model(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(layers))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, bias)
        return x


def inputs(seed: int, batch: int = 2, tokens: int = 12) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {"x": torch.randn(batch, tokens, 8), "bias": torch.randn(batch, 1, 1, tokens)}


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


def observed(model: nn.Module, *batches: dict[str, Tensor]) -> Observer:
    observer = Observer(model)
    with torch.no_grad():
        for batch in batches:
            observer(batch)
    return observer


@torch.no_grad()
def test_attention_that_is_written_out(model):
    batch = inputs(1)
    layer = observed(model, batch).layers()[0]
    q, k, _ = model.blocks[0].attn.qkv(batch["x"]).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = direct.figures(direct.weights(q, k, batch["bias"]), k, 1)
    assert {name: layer[name] for name in SHOWN} == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("axes", ["bnhk", "bhkn"])
def test_factors_of_another_layout_have_the_figures_of_the_formulas(model, axes):
    class LaidOut(Written):
        def forward(self, x: Tensor, bias: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).unbind(2)
            q, k, v = (torch.einsum(f"bnhk->{axes}", y) + 0 for y in (q, k, v))
            keys = axes.replace("n", "m")
            weights = (torch.einsum(f"{axes},{keys}->bhnm", q, k) * 4**-0.5 + bias).softmax(-1)
            return self.out(torch.einsum(f"bhnm,{keys}->bnhk", weights, v).flatten(2))

    batch = inputs(1)
    expected = observed(model, batch).layers()[0]
    for block in model.blocks:
        block.attn.__class__ = LaidOut
    found = observed(model, batch).layers()[0]
    assert {name: found[name] for name in SHOWN} == pytest.approx({n: expected[n] for n in SHOWN}, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("by", ["masked_fill", "where"])
@pytest.mark.parametrize("fill", [-math.inf, -1e9])
def test_scores_that_are_filled_have_the_figures_of_the_formulas(model, fill, by):
    """Written out; of a query whose keys are all hidden a low number makes them all alike."""

    class Filled(Written):
        def forward(self, x: Tensor, bias: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-1, -2) * 4**-0.5
            filled = scores.masked_fill(bias > 0.5, fill) if by == "masked_fill" else scores.where(bias <= 0.5, fill)
            return self.out((filled.softmax(-1) @ v).transpose(1, 2).flatten(2))

    for block in model.blocks:
        block.attn.__class__ = Filled
    batch = inputs(1)
    batch["bias"][0] = 0.0 if math.isinf(fill) else 1.0
    layer = observed(model, batch).layers()[0]
    q, k, _ = model.blocks[0].attn.qkv(batch["x"]).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = direct.figures(direct.weights(q, k, filled=(batch["bias"] > 0.5, fill)), k, 1)
    assert {name: layer[name] for name in SHOWN} == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_activations_and_what_is_added_to_the_stream(model):
    batch = inputs(1)
    layer = observed(model, batch).layers()[0]
    x, block = batch["x"], model.blocks[0]
    attended = block.attn(x, batch["bias"])
    between = x + attended
    after = between + 0.5 * block.ff(between)

    def ratio(added: Tensor, stream: Tensor) -> float:
        return fmean(float(a.norm() / s.norm()) for a, s in zip(added, stream, strict=True))

    attn, ff = layer["operators"]
    assert attn["contribution"] == pytest.approx(ratio(attended, x), abs=1e-6)
    assert ff["contribution"] == pytest.approx(ratio(0.5 * block.ff(between), between), abs=1e-6)
    assert layer["contribution"] == pytest.approx(ratio(after - x, x), abs=1e-6)
    cosines = (x * after).sum(-1) / x.norm(dim=-1) / after.norm(dim=-1)
    assert layer["similarity"] == pytest.approx(float(cosines.mean()), abs=1e-6)
    for side, tensor in (("in", x), ("out", attended)):
        wanted = [float(n) for n in (tensor.mean(), tensor.var(correction=0), tensor.abs().max())]
        assert [attn[f"{side}_{n}"] for n in ("mean", "variance", "largest")] == pytest.approx(wanted, abs=1e-5)


def test_several_forwards_give_the_means_over_all_of_their_samples(model):
    batches = [inputs(seed, batch) for seed, batch in ((1, 1), (2, 3))]
    together = observed(model, *batches).layers()
    samples = [
        observed(model, {n: t[i : i + 1] for n, t in b.items()}).layers() for b in batches for i in range(len(b["x"]))
    ]
    for number, layer in enumerate(together):
        for name in (*SHOWN, "contribution", "similarity"):
            assert layer[name] == pytest.approx(fmean(each[number][name] for each in samples), abs=1e-6)


def test_sizes_and_numbers_that_change_are_traced_anew(model):
    observer = observed(model, inputs(1, tokens=12), inputs(1, tokens=9))
    assert observer.forwards == 2
    alone = [observed(model, inputs(1, tokens=tokens)).layers()[0]["entropy"] for tokens in (12, 9)]
    assert observer.layers()[0]["entropy"] == pytest.approx(fmean(alone), abs=1e-6)


class Branching(Model):
    """Does something else for another value of what is no tensor."""

    def forward(self, x: Tensor, bias: Tensor, twice: bool = False) -> Tensor:
        x = super().forward(x, bias)
        return super().forward(x, bias) if twice else x


def test_calls_of_one_size_that_take_turns_are_traced_once_each(monkeypatch):
    traced: list[object] = []
    monkeypatch.setattr(observer, "trace", lambda *args: traced.append(args) or trace(*args))
    batches = [{**inputs(1), "twice": twice} for twice in (False, True) * 3]
    assert observed(Branching().eval(), *batches).forwards == 6
    assert len(traced) == 2


class InPlace(Block):
    """As a block, but what is added is written into the stream."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x += self.attn(x, bias)
        x += 0.5 * self.ff(x)
        return x


def test_blocks_that_write_into_the_stream_have_the_figures_of_those_that_do_not(model):
    writing = Model().eval()
    writing.blocks = nn.ModuleList([InPlace(), InPlace()]).eval()
    writing.load_state_dict(model.state_dict())
    expected, found = (observed(each, inputs(1)).layers() for each in (model, writing))
    for wanted, layer in zip(expected, found, strict=True):
        for name in (*SHOWN, "contribution", "similarity"):
            assert layer[name] == pytest.approx(wanted[name], abs=1e-6)
        contributions = [[o["contribution"] for o in each["operators"]] for each in (wanted, layer)]
        assert contributions[0] == pytest.approx(contributions[1], abs=1e-6)


class Peak(TorchDispatchMode):
    """The most bytes of computed tensors that live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr():
            size = out.numel() * out.element_size()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(out, self._less, size)
        return out

    def _less(self, size: int) -> None:
        self.now -= size


def peak(layers: int, forwards: int) -> tuple[int, int, int]:
    """The numbers held, the most bytes at once, and how many bytes are left, beyond a first forward."""
    torch.manual_seed(0)
    observer = observed(Model(layers).eval(), inputs(1))
    gc.collect()
    with torch.no_grad(), Peak() as seen:
        for _ in range(forwards):
            observer(inputs(1))
    gc.collect()
    return len(observer.sums), seen.most, seen.now


def test_memory_is_flat_in_layers_and_samples():
    held, most, left = peak(2, 1)
    assert peak(2, 5) == (held, most, left)
    deeper = peak(6, 1)
    assert deeper[0] == 3 * held  # numbers of the layers themselves
    assert deeper[1:] == (most, left)


class Multihead(nn.Module):
    """Blocks of torch's own attention, which takes masks that tell what is not seen."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, **options)
        self.ff = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor, padding: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        attended = self.attn(x, x, x, key_padding_mask=padding, attn_mask=mask, need_weights=True)[0]
        x = x + attended
        return x + self.ff(x)


@pytest.mark.parametrize("masked", ["none", "padding", "pairs", "bias"])
@pytest.mark.parametrize(
    "options", [{"batch_first": True}, {"bias": False}, {"batch_first": True, "kdim": 8, "vdim": 8}]
)
@torch.no_grad()
def test_attention_inside_of_torch_s_own_module(options, masked):
    torch.manual_seed(3)
    block, x = Multihead(**options).eval(), torch.randn(2, 6, 8)
    given = {
        "none": {},
        "padding": {"padding": torch.tensor([[False] * 6, [False] * 4 + [True] * 2])},
        "pairs": {"mask": torch.ones(6, 6, dtype=torch.bool).triu(1)},
        "bias": {"mask": torch.randn(4, 6, 6)},
    }[masked]
    x = x if options.get("batch_first") else x.transpose(0, 1)
    weights = block.attn(x, x, x, key_padding_mask=given.get("padding"), attn_mask=given.get("mask"),
                         average_attn_weights=False)[1]  # fmt: skip
    observer = observed(block, {"x": x, **given})
    (operator,) = (o for o in observer.figures()["outside"] if o["role"] == "self_attention")
    key = nn.functional.linear(x, *_keys_of(block.attn)).unflatten(-1, (2, 4))
    key = key.permute((0, 2, 1, 3) if options.get("batch_first") else (1, 2, 0, 3))
    assert {name: operator[name] for name in SHOWN} == pytest.approx(direct.figures(weights.double(), key, 1), abs=1e-6)


def _keys_of(attention: nn.MultiheadAttention) -> tuple[Tensor, Tensor | None]:
    weight = attention.in_proj_weight[8:16] if attention.in_proj_weight is not None else attention.k_proj_weight
    return weight, None if attention.in_proj_bias is None else attention.in_proj_bias[8:16]


@torch.no_grad()
def test_keys_of_another_width_have_weights_of_their_own():
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True).eval()
    x, text = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    expected = attention(x, text, text, average_attn_weights=False)[1]
    torch.testing.assert_close(direct.weights(*queries_and_keys(attention, x, text)).float(), expected)
