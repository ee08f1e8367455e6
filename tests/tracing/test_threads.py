"""Threads that trace, rewrite and call loaded students do not see each other, and who only runs a model sees none."""

from __future__ import annotations

import functools
import gc
import linecache
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import flex_attention as flex
from torch.utils import _python_dispatch

import surgery
from surgery.models.inputs import example_inputs
from surgery.operators import HyenaX, SlidingWindow
from surgery.rewriting import Rule, indices
from surgery.rules import drop_blocks, mlp_ratio, parallel_pairs, replace_attention
from surgery.testing import profiles
from tests.classes.check import same_bits

WIDTH, THREADS = 8, 4
COUNT = settings.get_profile(profiles.chosen()).max_examples
RULES: list[Callable[[], list[Rule]]] = [
    lambda: [replace_attention(HyenaX(kernel=3))],
    lambda: [replace_attention(SlidingWindow(window=3)), mlp_ratio(1)],
    lambda: [drop_blocks(layers=indices(1))],
    lambda: [parallel_pairs()],
]
MEETINGS: list[Callable[[], None]] = []


@functools.lru_cache
def frequencies(tokens: int) -> Tensor:
    return torch.linspace(0, 1, tokens)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (2, -1)).transpose(1, 2) for each in (self.to_q, self.to_k, self.to_v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(WIDTH), Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.mlp(x)


class Net(nn.Module):
    """Uses what a recording replaces: `int`, a cached function, autocast, the values of a tensor, attributes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.gain = 1.5

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        for meeting in MEETINGS:
            meeting()
        x = x + frequencies(x.shape[1]).view(1, -1, 1) * int(x.shape[1] ** 0.5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = x + (x @ x.transpose(1, 2)).float().mean() * self.gain
        for block in self.blocks:
            x = block(x)
        return x[:, : int(length.item())]


class Plain(Net):
    """Has no values to read, so that it is recorded on meta tensors alone."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def call(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(2, 5 + seed % 3, WIDTH, generator=g), "length": torch.tensor(3)}


def process() -> dict[str, Any]:
    """What all threads share and a recording might leave changed."""
    spaces = [vars(sys.modules[__name__]), vars(flex)]
    return {
        "modules": {k: v for k, v in vars(nn.Module).items() if k.startswith("__") and k != "__annotations__"},
        "autocast": {k: v for k, v in vars(torch.autocast).items() if callable(v)},
        "names": [(space.get("int"), space.get("float"), space.get("frequencies")) for space in spaces],
        "flex": [vars(flex)[n] for n in ("flex_attention", "create_block_mask", "create_mask")],
        "masks": vars(flex.BlockMask)["from_kv_blocks"],
        "random": torch.get_rng_state().tolist(),
        "collection": (gc.isenabled(), gc.get_freeze_count()),
        "device": torch.utils._device.CURRENT_DEVICE,
        "dispatch": (_python_dispatch._is_in_torch_dispatch_mode, torch.get_default_dtype()),
        "autocast is on": torch.is_autocast_enabled("cpu"),
    }


def in_threads(tasks: Iterable[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [each.result() for each in [pool.submit(task) for task in tasks]]


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def outcome(model: nn.Module, number: int) -> tuple[dict[str, Any], Any]:
    with torch.no_grad():
        result = model(**call(number))
    return dict(model.state_dict()), result


def rewritten(teacher: nn.Module, number: int) -> nn.Module:
    return surgery.rewrite(teacher, RULES[number % len(RULES)](), call(), seed=number)


@pytest.mark.usefixtures("often")
def test_rewrites() -> None:
    teachers = [Net(i).eval() for i in range(len(RULES))]

    def task(number: int) -> Any:
        return outcome(rewritten(teachers[number], number), number)

    expected = list(map(task, range(len(RULES))))
    before = process()
    results = in_threads(functools.partial(task, i % len(RULES)) for i in range(COUNT))
    assert process() == before
    assert all(same_bits(result, expected[i % len(RULES)]) for i, result in enumerate(results))


@pytest.mark.usefixtures("often")
def test_first_calls_of_loaded_students(tmp_path: Path) -> None:
    base = Net(9).eval()
    for number in range(len(RULES)):
        surgery.save(rewritten(base, number), tmp_path / str(number))

    def task(number: int) -> Any:
        return outcome(surgery.load(tmp_path / str(number), base=base), number)

    expected = list(map(task, range(len(RULES))))
    before = process()
    results = in_threads(functools.partial(task, i % len(RULES)) for i in range(COUNT))
    assert process() == before
    assert all(same_bits(result, expected[i % len(RULES)]) for i, result in enumerate(results))


@pytest.mark.usefixtures("often")
def test_one_student_is_first_called_from_several_threads(tmp_path: Path) -> None:
    base = Net().eval()
    surgery.save(rewritten(base, 2), tmp_path / "student")
    student, again = (surgery.load(tmp_path / "student", base=base) for _ in range(2))
    expected = [outcome(again, i) for i in range(3)]
    results = in_threads(functools.partial(outcome, student, i % 3) for i in range(12))
    assert all(same_bits(result, expected[i % 3]) for i, result in enumerate(results))


def look(model: nn.Module) -> list[Any]:
    """What a thread that has nothing to do with a recording sees, draws and computes."""
    frequencies.cache_clear()
    numbers = [int("ff", base=16), int(2.5), isinstance(3, int), int == int, {int: 1}[int], float("2")]  # noqa: E721
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = torch.ones(2, 2) @ torch.ones(2, 2)
    same = frequencies(4) is frequencies(4), frequencies.cache_info().hits
    with torch.no_grad():
        return [numbers, cast, same, torch.rand(3), model(**call(1)), torch.is_grad_enabled()]


def test_a_thread_that_runs_a_model_while_another_one_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    own, found = Net(1).eval(), []
    torch.manual_seed(0)
    expected = [look(own), torch.get_rng_state()]

    def seeded() -> Any:
        torch.manual_seed(0)
        return look(own)

    def meet() -> None:
        MEETINGS.remove(meet)
        found.append([in_threads([seeded])[0], torch.get_rng_state()])

    model = Net().eval()
    for record in (lambda: surgery.trace(model, call()), lambda: rewritten(model, 0)):
        monkeypatch.setattr(sys.modules[__name__], "MEETINGS", [meet])
        record()
        assert same_bits(found.pop(), expected)
        assert torch.equal(torch.get_rng_state(), expected[1])  # and it is not wound back


def test_a_thread_that_compiles_while_another_one_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Plain(1).eval()
    expected = torch.compile(own, backend="eager")(**call(1))
    torch.compiler.reset()
    compiled, started = torch.compile(own, backend="eager", fullgraph=True), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        results = []

        def meet() -> None:
            MEETINGS.remove(meet)
            results.append(pool.submit(lambda: (started.set(), compiled(**call(1)))[1]))
            started.wait()
            time.sleep(0.05)

        monkeypatch.setattr(sys.modules[__name__], "MEETINGS", [meet])
        surgery.trace(Net().eval(), call())
        assert same_bits([each.result() for each in results], [expected])


def test_what_is_looked_for_is_looked_for_by_one_thread() -> None:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=8, num_layers=1, sample_size=4)
    before = process()
    shapes = in_threads([lambda: {k: v.shape for k, v in example_inputs(model).items()}] * THREADS)
    assert {**process(), "random": 0} == {**before, "random": 0}  # the inputs themselves are drawn as the user draws
    assert all(each == shapes[0] for each in shapes)


def metas() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) and each.is_meta for each in gc.get_objects())


@pytest.mark.parametrize("base", [Net, Plain])
def test_nothing_stays(base: type[Net]) -> None:
    def use() -> list[weakref.ref[Any]]:
        class Local(base):  # type: ignore[valid-type, misc]
            """A class that is gone when its models are."""

        model = Local().eval()
        graph = surgery.trace(model, call())
        student = rewritten(model, 2)
        for each in (graph.module(), student):
            each(**call()).sum().backward()
            each(**call(1))
        return [weakref.ref(each) for each in (model, graph, graph.scopes[""].graph, student, type(student), Local)]

    use()  # what is made once stays
    before = metas(), len(linecache.cache)
    kept = use()
    assert (metas(), len(linecache.cache)) == before
    assert [each() for each in kept] == [None] * len(kept)
