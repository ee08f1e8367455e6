"""A teacher that takes less memory teaches the same, or nearly, and is what it was afterwards."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.cli import main
from surgery.errors import RecipeError
from surgery.recipe import Recipe
from surgery.recording.copying import place
from surgery.rewriting.commit import record_of, replaced_in
from surgery.run.checks import require_divisible
from surgery.training import held as module
from surgery.training.distil import Distil, distil, sites_of
from surgery.training.finetune import Finetune
from surgery.training.held import Held, held, on_device, set_aside
from tests.training.test_options import FAST, places, rewritten, run, shared
from tests.training.test_rehearse import BLOCKS, rehearsal
from tests.training.test_wired import wired
from tests.training.tiny import same_bits, weights

NEARLY: dict[Held, float] = {"offload": 0.0, "int8": 0.03, "nf4": 0.3}


def require(how: Held | None) -> None:
    if how == "nf4":
        pytest.importorskip("bitsandbytes", exc_type=ImportError)


def attributes(model: nn.Module) -> list[list[str]]:
    return [sorted(vars(part)) for part in model.modules()]


def prediction(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**wired("DiTPipeline")[1].example(0, "cpu", 2)).sample
    return found


@given(st.integers(1, 9), st.integers(1, 9), st.floats(1e-30, 1e30), st.integers(0, 9))
def test_8_bits_are_nearest_in_each_row(rows: int, columns: int, size: float, seed: int) -> None:
    weight = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    again = module._in_8_bits(weight)()
    step = weight.abs().amax(1, keepdim=True) / module.LARGEST
    assert ((again - weight).abs() <= 0.51 * step).all()


def test_a_row_of_zeros_stays_one() -> None:
    assert not module._in_8_bits(torch.zeros(2, 3))().any()


@pytest.mark.parametrize("how", NEARLY)
def test_a_teacher_is_nearly_what_it_is_and_afterwards_what_it_was(how: Held) -> None:
    require(how)
    teacher = copy.deepcopy(wired("DiTPipeline")[0])
    before, names, exact = weights(teacher), attributes(teacher), prediction(teacher)
    with held(teacher, how):
        within = prediction(teacher)
    error = float((within - exact).norm() / exact.norm())
    assert error <= NEARLY[how]
    assert (error > 0) == (how != "offload")
    assert same_bits(weights(teacher), before)
    assert attributes(teacher) == names


def test_a_student_stays_where_it_is_when_its_teacher_is_moved() -> None:
    teacher, student, _ = shared()
    assert places(teacher).items() & places(student).items()  # they share memory
    before = prediction(student)
    for tensor in [*teacher.parameters(), *teacher.buffers()]:
        tensor.data = torch.full_like(tensor, torch.nan)  # as a copy elsewhere would be, whatever it holds
    assert torch.equal(prediction(student), before)


def test_what_reads_a_rounded_weight_itself_gets_no_number() -> None:
    teacher = nn.Sequential(nn.Linear(4, 4))
    with held(teacher, "int8"):
        assert teacher[0].weight.isnan().all()
        assert (teacher[0].weight.dtype, teacher[0].weight.shape) == (torch.float32, (4, 4))


def losses(how: Held | None) -> list[float]:
    """Of both stages."""
    (teacher, data), student = wired("DiTPipeline"), copy.deepcopy(rewritten("DiTPipeline"))
    sites = sites_of(record_of(student).edits, teacher, student)
    one = distil(teacher, student, sites, data, Distil(**FAST, teacher_weights=how), seed=0)
    two = run(target="teacher", teacher_weights=how)[1]
    return [record.loss for record in (*one, *two)]


def test_stages_learn_from_it_what_they_learn_from_a_whole_one() -> None:
    exact, rounded = losses(None), losses("int8")
    assert losses("offload") == exact
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


def test_what_of_a_student_is_not_distilled_waits_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    student = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    moved: list[tuple[int, ...]] = []
    monkeypatch.setattr(Tensor, "cpu", lambda self: moved.append(tuple(self.shape)) or self)
    with set_aside(student, [student[1]], wanted=True):
        assert moved == [(1, 1), (1,)]
    with set_aside(student, [], wanted=False):
        assert len(moved) == 2


def test_what_was_replaced_keeps_no_memory_of_a_teacher_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student, _ = shared()
    monkeypatch.setattr(Tensor, "cpu", lambda self: self.clone())
    for used in ([], [student]):
        with set_aside(student, used, wanted=True):
            left = [place(parameter) for old in replaced_in(student) for parameter in old.parameters()]
            assert left
            assert not {place(parameter) for parameter in teacher.parameters()} & {*left}


def test_less_is_on_the_device_the_fewer_bits_there_are() -> None:
    teacher = copy.deepcopy(wired("DiTPipeline")[0]).to("meta")

    def size(how: Held | None) -> int:
        kept, more = on_device(teacher, how)
        return sum(tensor.nbytes for tensor in kept) + more

    assert size(None) > size("int8") > size("nf4") > size("offload") > 0
    assert on_device(wired("DiTPipeline")[0], "offload")[1] == 0  # on a CPU


def test_a_rehearsal_counts_rounded_weights_beside_the_exact_ones_of_a_cpu() -> None:
    plain, rounded = (
        rehearsal().finetune(Finetune(target="teacher", teacher_weights=h), BLOCKS) for h in (None, "int8")
    )
    assert rounded.weights > plain.weights
    assert rounded.activations == plain.activations


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"finetune.teacher_weights": "int8"}, "finetune.teacher_weights: nothing is learnt from the teacher"),
        ({"distil.teacher_weights": "int8", "distil.compile": "true"}, "distil.compile: a teacher with"),
        (
            {"distil.teacher_weights": "nf4"},
            "teacher_weights='nf4' needs bitsandbytes: pip install 'surgery[quantised]'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    settings: dict[str, str], line: str, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert main(["apply", str(write_recipe()), "--out", str(tmp_path / "run"), *given]) == 2
    err: Any = capsys.readouterr().err
    assert err.startswith(f"surgery: {line}")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_it_is_not_divided(monkeypatch: pytest.MonkeyPatch, tiny_dit: Path) -> None:
    monkeypatch.setattr("surgery.run.checks.size", lambda: 2)
    with pytest.raises(RecipeError, match=r"--shard: distil\.teacher_weights='int8' is not divided"):
        require_divisible(Recipe(model=str(tiny_dit), rules=[], distil=Distil(teacher_weights="int8")))
