"""Losses and weights do not depend on how many processes train."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.parallel.group import rank, size
from surgery.parallel.whole import whole
from surgery.progress import Progress
from surgery.testing import profiles
from surgery.training.checkpoint import CheckpointStore
from surgery.training.distil import Distil, distil
from surgery.training.finetune import Finetune, finetune
from surgery.training.objective import Target
from surgery.training.record import LossRecord
from surgery.training.sharding import shard
from tests.parallel.world import in_processes
from tests.training import tiny

Outcome = tuple[list[list[float]], dict[str, Tensor]]
KILLS = 20 if profiles.chosen() == "nightly" else 2
UNITS = {"transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.0.norm1.emb"}
STEPS, BATCH = 4, 5
"""A batch that neither two nor three processes have equal parts of, nor four at one micro-batch."""


def learnt(
    folder: Path | None = None, progress: Progress | None = None, divides: bool = False, **options: Any
) -> Outcome:
    """The losses of both stages, and the weights; none if `progress` interrupts."""
    teacher, student = tiny.teacher(), tiny.student(tiny.SITE, tiny.OTHER_SITE)
    if divides and size() > 1:
        for model in (teacher, student):
            shard(model, UNITS if model is teacher else {*UNITS, tiny.SITE, tiny.OTHER_SITE})
            with torch.no_grad():
                model(**tiny.data().example(0, "cpu"))
    sites = tiny.sites(teacher, student, {tiny.SITE: "l2", tiny.OTHER_SITE: "l1"})
    store = None if folder is None else CheckpointStore(folder, background=divides)
    common: dict[str, Any] = {"batch_size": BATCH, "checkpoint_every": 2, "steps": STEPS}
    more: dict[str, Any] = {"seed": 3, "checkpoints": store, "progress": progress}
    try:
        one = distil(teacher, student, sites, tiny.data(), Distil(**common), **more)
        two = finetune(teacher, student, [tiny.SITE], tiny.data(), Finetune(**common, **options), **more)
    except tiny.InterruptError:
        return [], {}
    return [_figures(record) for record in (*one, *two)], {n: whole(t) for n, t in tiny.weights(student).items()}


def _figures(record: LossRecord) -> list[float]:
    return [record.loss, *record.sites.values(), record.validation or 0.0]


def assert_equal(found: Outcome, expected: Outcome, tolerance: float = 1e-5) -> None:
    for record, wanted in zip(found[0], expected[0], strict=True):
        assert record == pytest.approx(wanted, rel=tolerance)
    for name, tensor in expected[1].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {"target": Target()}),
        (3, {"optimizer": "muon", "micro_batch": 2}),
        (4, {"target": "teacher", "micro_batch": 1, "inherited_lr": 0.0}),
    ],
)
def test_losses_are_those_of_one_process(processes: int, options: dict[str, Any]) -> None:
    expected = learnt(**options)
    found = in_processes(processes, lambda: learnt(**options))
    assert not isinstance(found[0], str), found[0]
    for outcome in found:
        assert_equal(outcome, expected)
        assert tiny.same_bits(outcome[1], found[0][1])


def test_more_processes_than_samples() -> None:
    def work() -> list[float]:
        teacher, student = tiny.teacher(), tiny.student()
        sites = tiny.sites(teacher, student, {tiny.SITE: "l2"})
        config = Distil(batch_size=2, steps=2)
        return [record.loss for record in distil(teacher, student, sites, tiny.data(), config, seed=0)]

    assert in_processes(3, work)[2] == pytest.approx(work(), rel=1e-5)


@pytest.mark.parametrize("divides", [False, True])
def test_a_checkpoint_is_gone_on_with_by_any_number(tmp_path: Path, divides: bool) -> None:
    for processes in (2, 1, 3):
        found = in_processes(processes, lambda: learnt(tmp_path, tiny.Interrupting(3), divides))
        assert found == processes * [([], {})]
    found = in_processes(2, lambda: learnt(tmp_path, divides=divides))
    assert not isinstance(found[0], str), found[0]
    assert_equal(found[0], learnt())


class Killing(tiny.Interrupting):
    """Ends its process for good once so many steps are done."""

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        try:
            super().advance(steps, loss=loss)
        except tiny.InterruptError:
            os.kill(os.getpid(), signal.SIGKILL)


def test_one_or_all_processes_killed_again_and_again_change_nothing(tmp_path: Path) -> None:
    chosen = random.Random(0)
    for _ in range(KILLS):
        processes, victim, after = chosen.choice([1, 2, 3]), chosen.choice([0, 1, None]), chosen.randint(1, 6)

        def work(victim: int | None = victim, after: int = after) -> None:
            learnt(tmp_path, Killing(after) if victim in (None, rank()) else None)

        in_processes(processes, work)
    assert_equal(in_processes(2, lambda: learnt(tmp_path))[0], learnt())


def test_weights_without_gradients_stay_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from surgery.parallel import division

    def work() -> list[bool]:
        modules = [nn.Linear(1, 1) for _ in range(3)]
        modules[1 + division.rank()](torch.ones(1, 1)).backward()
        division.add_up_gradients(module.weight for module in modules)
        return [module.weight.grad is None for module in modules]

    assert in_processes(2, work) == 2 * [[True, False, False]]
