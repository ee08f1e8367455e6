from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from surgery.errors import ArtifactError, TrainingError
from surgery.training import checkpoint, sealed
from surgery.training.checkpoint import CheckpointStore, TrainState
from surgery.training.record import LossRecord
from tests.training.tiny import same_bits

IDENTITY = {"seed": 0, "lr": 1e-3, "sites": {"a": "l1"}}

dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.builds(lambda shape, dtype: torch.randn(shape).to(dtype), shapes, dtypes)
named = st.dictionaries(st.text("abc./_", min_size=1, max_size=6), tensors, max_size=3)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def states(draw: st.DrawFn) -> TrainState:
    sites = draw(st.lists(st.sampled_from(["blocks.0", "blocks.1", "é ü"]), unique=True))
    steps = draw(st.integers(0, 4))
    records = [
        LossRecord("distil", i + 1, draw(finite), {s: draw(finite) for s in sites}, draw(st.none() | finite))
        for i in range(steps)
    ]
    return TrainState(steps, draw(named), draw(named), draw(named), records)


def state(step: int = 3, size: int = 50) -> TrainState:
    values = {"weight": torch.full((size,), float(step))}
    moments = {"weight/exp_avg": torch.zeros(size)}
    return TrainState(step, values, moments, {}, [LossRecord("distil", step, 0.5)])


def like(saved: TrainState) -> TrainState:
    """What a state is read into."""
    empty = [{name: torch.zeros_like(t) for name, t in group.items()} for group in (saved.parameters, saved.ema)]
    return TrainState(0, empty[0], {}, empty[1], [])


def last(store: CheckpointStore, saved: TrainState) -> TrainState | None:
    return store.load("distil", IDENTITY, like(saved))


def equal(a: TrainState, b: TrainState) -> bool:
    groups: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = [
        (a.parameters, b.parameters),
        (a.optimizer, b.optimizer),
        (a.ema, b.ema),
    ]
    return a.step == b.step and a.records == b.records and all(same_bits(x, y) for x, y in groups)


@settings(max_examples=60, deadline=None)
@given(states())
def test_what_is_saved_is_loaded(saved: TrainState) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder)
        store.save("distil", saved, IDENTITY)
        loaded = last(store, saved)
    assert loaded is not None
    assert equal(saved, loaded)


def test_no_checkpoint(tmp_path: Path) -> None:
    assert last(CheckpointStore(tmp_path / "none"), state()) is None


def test_stages_do_not_meet(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("distil", state(1), IDENTITY)
    assert store.load("finetune", IDENTITY, like(state())) is None


def test_views_of_one_storage_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(8.0)
    shared = TrainState(1, {"a": whole[:4], "b": whole[2:]}, {}, {}, [])
    store = CheckpointStore(tmp_path)
    store.save("distil", shared, IDENTITY)
    loaded = last(store, shared)
    assert loaded is not None
    assert equal(shared, loaded)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 40), st.integers(1, 8))
def test_files_stay_small_and_are_few(sizes: list[int], file: int, files: int) -> None:
    saved = TrainState(1, {str(i): torch.zeros(size, dtype=torch.uint8) for i, size in enumerate(sizes)})
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(checkpoint, FILE=file, FILES=files):
        store = CheckpointStore(folder)
        store.save("distil", saved, IDENTITY)
        parts = [load_file(part) for part in sealed.parts_of(store.paths("distil")[0])]
        loaded = last(store, saved)
    held = [sum(tensor.nbytes for tensor in part.values()) for part in parts]
    assert equal(saved, loaded)
    assert max(held) < max(file, sum(held) // files) + max(sizes)
    assert len(held) <= 2 * files + 1


def files_of(store: CheckpointStore) -> list[Path]:
    last = store.paths("distil")[0]
    return [*sealed.parts_of(last), sealed.state_of(last)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_altered_byte_goes_unseen(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder)
        store.save("distil", state(), IDENTITY)
        file = data.draw(st.sampled_from(files_of(store)))
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match="truncated or altered") as error:
            last(store, state())
        assert str(store.paths("distil")[0]) in str(error.value)
        assert "delete it" in str(error.value)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 1))
def test_truncation_is_seen(length: int, which: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder)
        store.save("distil", state(), IDENTITY)
        file = files_of(store)[which]
        os.truncate(file, length % file.stat().st_size)
        with pytest.raises(ArtifactError, match="truncated or altered"):
            last(store, state())


@pytest.mark.parametrize("background", [False, True])
def test_the_last_two_are_kept_and_the_one_before_is_used_instead_of_a_damaged_one(
    tmp_path: Path, background: bool
) -> None:
    store = CheckpointStore(tmp_path, background)
    for step in (3, 4, 5):
        saved = state(step)
        store.save("distil", saved, IDENTITY)
        saved.parameters["weight"].zero_()  # training goes on
    assert equal(last(store, state()), state(5))
    assert [path.name for path in store.paths("distil")] == ["distil-000005", "distil-000004"]
    files_of(store)[0].unlink()
    assert equal(last(store, state()), state(4))
    assert [line.partition(" is ")[0] for line in store.damaged] == [f"checkpoint {tmp_path / 'distil-000005'}"]
    store.save("distil", state(5), IDENTITY)
    assert equal(last(store, state()), state(5))
    assert not store.damaged


@pytest.mark.parametrize("other", [{**IDENTITY, "lr": 2e-3}, {**IDENTITY, "lr": None}])
def test_another_training_is_refused_by_name(tmp_path: Path, other: dict[str, object]) -> None:
    store = CheckpointStore(tmp_path)
    store.save("distil", state(), IDENTITY)
    with pytest.raises(ArtifactError, match=r"another training: it differs in lr \(0.001 there"):
        store.load("distil", other, like(state()))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def require_kept(store: CheckpointStore) -> None:
    loaded = last(store, state(3, 10_000))
    assert loaded is not None
    assert equal(loaded, state(3, 10_000))
    assert {path.name for path in store.folder.iterdir()} == {path.name for path in files_of(store)}
    assert [path.name for path in store.paths("distil")] == ["distil-000003"]


def test_a_write_that_the_system_refuses_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("distil", state(3, 10_000), IDENTITY)
    with file_size_limit(30_000), pytest.raises(TrainingError, match="cannot write checkpoint") as error:
        store.save("distil", state(4, 10_000), IDENTITY)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    require_kept(store)


@pytest.mark.parametrize("call", ["checkpoint.save", "sealed.sync", "sealed.os.replace"])
def test_a_full_disk_at_any_call_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = CheckpointStore(tmp_path)
    store.save("distil", state(3, 10_000), IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(f"surgery.training.{call}", full)
        with pytest.raises(TrainingError, match="No space left"):
            store.save("distil", state(4, 10_000), IDENTITY)
    require_kept(store)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot write checkpoint"):
        CheckpointStore(tmp_path / "file" / "checkpoints").save("distil", state(), IDENTITY)


def test_the_new_file_is_on_disk_before_it_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(sealed.os, "fsync", lambda fd: (calls.append("sync"), real_fsync(fd)))
    monkeypatch.setattr(sealed.os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b)))
    CheckpointStore(tmp_path).save("distil", state(), IDENTITY)
    assert calls == ["sync", "sync", "replace", "sync", "replace", "sync"]  # tensors, state; their places, its place
