"""A training that was interrupted, however often, ends with the same bits as one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surgery.errors import ArtifactError
from surgery.progress import Progress, SilentProgress
from surgery.training.checkpoint import CheckpointStore
from surgery.training.distil import Distil, distil
from surgery.training.finetune import Finetune, finetune
from surgery.training.record import LossRecord
from tests.nightly import examples, nightly
from tests.training import tiny

STEPS = 6
SITES = {tiny.SITE: "l1"}
Outcome = tuple[dict[str, Tensor], list[LossRecord]]


def train(
    stage: str,
    every: int,
    store: CheckpointStore | None,
    progress: Progress,
    lr: float = 1e-2,
    seed: int = 0,
    optimizer: str = "adamw",
) -> Outcome:
    student, data = tiny.student(), tiny.data()
    options = {"steps": STEPS, "batch_size": 4, "lr": lr, "warmup": 2, "checkpoint_every": every}
    options["optimizer"] = optimizer
    common: dict[str, Any] = {"seed": seed, "checkpoints": store, "progress": progress}
    if stage == "distil":
        teacher = tiny.teacher()
        records = distil(teacher, student, tiny.sites(teacher, student, SITES), data, Distil(**options), **common)
    else:
        records = finetune(tiny.teacher(), student, (tiny.SITE,), data, Finetune(**options), **common)
    return tiny.weights(student), records


@cache
def uninterrupted(stage: str, every: int, optimizer: str) -> Outcome:
    return train(stage, every, None, SilentProgress(), optimizer=optimizer)


@pytest.mark.parametrize("stage", ["distil", "finetune"])
@examples(12)
@given(
    every=st.integers(1, STEPS),
    interruptions=st.lists(st.integers(1, STEPS), max_size=3),
    optimizer=st.sampled_from(["adamw", "muon"]),
)
def test_interrupted_anywhere(stage: str, every: int, interruptions: list[int], optimizer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder)
        for after in interruptions:
            torch.rand(after)  # the state of the global generator must not matter
            try:
                train(stage, every, store, tiny.Interrupting(after), optimizer=optimizer)
            except tiny.InterruptError:
                continue
        resumed, records = train(stage, every, store, SilentProgress(), optimizer=optimizer)
    expected, expected_records = uninterrupted(stage, every, optimizer)
    assert records == expected_records
    assert tiny.same_bits(resumed, expected)


@nightly  # tests/run/test_killed.py kills whole runs
def test_killed_at_any_moment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.killed", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] == 5
    assert outcome["killed"] == outcome["whole"]
    left, expected = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("killed", "whole"))
    assert left == expected
    checkpoints = [name.removesuffix(".json") for name in left if name.endswith(".json")]  # tensors lie beside these
    assert checkpoints == ["distil-000007", "distil-000008", "finetune-000007", "finetune-000008"]


@pytest.mark.parametrize("stage", ["distil", "finetune"])
def test_a_finished_stage_is_not_trained_again(stage: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first, records = train(stage, 2, store, SilentProgress())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.optim.AdamW.step", lambda *_: pytest.fail("trained again"))
        again, again_records = train(stage, 2, store, SilentProgress())
    assert tiny.same_bits(first, again)
    assert records == again_records


@pytest.mark.parametrize("finished", [True, False])
def test_what_a_killed_save_left_is_removed(finished: bool, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    if finished:
        train("distil", 2, store, SilentProgress())
    left = tmp_path / ".distil-000002.partial"
    left.mkdir()
    (left / "shard.safetensors").write_bytes(b"half")
    (tmp_path / "distil-000002-shard.safetensors").write_bytes(b"moved before the file that names it")
    train("distil", 2, store, SilentProgress())
    assert sorted({path.name[:13] for path in tmp_path.iterdir()}) == ["distil-000004", "distil-000006"]


@pytest.mark.parametrize("stage", ["distil", "finetune"])
@pytest.mark.parametrize(
    ("change", "named"), [({"lr": 2e-2}, "lr"), ({"seed": 1}, "seed"), ({"every": 3}, "checkpoint_every")]
)
def test_another_training_is_refused(stage: str, change: dict[str, Any], named: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    train(stage, 2, store, SilentProgress())
    with pytest.raises(ArtifactError, match=f"differs in {named} "):
        train(stage, **{"every": 2, **change}, store=store, progress=SilentProgress())


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    store, other = CheckpointStore(tmp_path), tiny.teacher()
    train("distil", 2, store, SilentProgress())
    other.proj_out_2.weight.data[0, 0] += 1
    config = Distil(steps=STEPS, batch_size=4, lr=1e-2, warmup=2, checkpoint_every=2)
    student, data = tiny.student(), tiny.data()
    with pytest.raises(ArtifactError, match="differs in teacher;"):
        distil(other, student, tiny.sites(other, student, SITES), data, config, seed=0, checkpoints=store)


def test_other_seeds_give_other_weights() -> None:
    one, _ = train("finetune", 2, None, SilentProgress(), seed=0)
    two, _ = train("finetune", 2, None, SilentProgress(), seed=1)
    assert not tiny.same_bits(one, two)


def test_validation_at_a_step_does_not_depend_on_when_checkpoints_are_written() -> None:
    often = {r.step: r.validation for r in uninterrupted("finetune", 1, "adamw")[1]}
    rarely = {r.step: r.validation for r in uninterrupted("finetune", 3, "adamw")[1]}
    assert (often[3], often[6]) == (rarely[3], rarely[6])
