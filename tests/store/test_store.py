"""A store gives back what was put into it, to the bit, each row once; what is damaged or not its own is refused."""

from __future__ import annotations

import errno
import re
import shutil
from collections import namedtuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surgery.errors import ArtifactError, SurgeryError
from surgery.store import Sample, Skipped, Store, fill
from surgery.store import filling as filling_module
from tests.store.fake import Made, plain, same, samples

IDENTITY = {"model": "m", "images": "abc"}
Size = namedtuple("Size", "height width")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling_module, "SHARD_BYTES", 300)
    monkeypatch.setattr(filling_module, "SECONDS_BETWEEN_WRITES", 0.0)


def rows_in(folder: Path) -> list[str]:
    return [row for shard in Store(folder)._shards for row in shard.rows]


@given(given_samples=samples, again=st.lists(st.integers(0, 5), max_size=4))
@settings(max_examples=40)
def test_any_samples_are_given_back_to_the_bit_and_equal_rows_are_kept_once(
    given_samples: list[Sample], again: list[int]
) -> None:
    given_samples += [given_samples[number % len(given_samples)] for number in again]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling_module, "SHARD_SOURCES", 2)
        store = fill(folder, IDENTITY, Made(len(given_samples), given_samples.__getitem__))
        assert len(store) == len(given_samples)
        for number, sample in enumerate(given_samples):
            assert same((store[number].latents, store[number].conditions), (sample.latents, sample.conditions))
            assert store.shapes[number] == tuple(sample.latents.shape)
        rows = rows_in(Path(folder))
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("count", [1, 6, 30])
def test_equal_conditions_take_no_more_room_however_many_samples_have_them(count: int, tmp_path: Path) -> None:
    text = {"text": torch.randn(100, 4), "masks": [torch.ones(3, dtype=torch.bool)]}
    fill(tmp_path, IDENTITY, Made(count, lambda number: Sample(torch.tensor(float(number)), text)))
    assert len(rows_in(tmp_path)) == count + 2


@pytest.mark.usefixtures("small_shards")
def test_samples_are_read_and_what_could_not_be_made_is_named(tmp_path: Path) -> None:
    store = fill(tmp_path, IDENTITY, Made(16, plain))
    assert (len(store), store.skipped) == (14, ["6.png: is no image", "13.png: is no image"])
    alike = [number for number in range(14) if store.shapes[number] == (2, 3, 4)]
    samples = [store[number] for number in alike[:3]]
    assert all(torch.equal(each.latents, plain(n).latents) for each, n in zip(samples, (0, 2, 4), strict=True))
    assert [each.conditions["text"][0, 0] for each in samples] == [0, 2, 1]
    with pytest.raises(IndexError, match="no sample 14 in a store of 14"):
        store[14]


@pytest.mark.usefixtures("small_shards")
def test_what_is_read_may_be_written_into(tmp_path: Path) -> None:
    store = fill(tmp_path, IDENTITY, Made(3, plain))
    store[0].latents.zero_()
    assert torch.equal(store[0].latents, plain(0).latents)


@pytest.mark.usefixtures("small_shards")
def test_a_full_store_makes_nothing_again(tmp_path: Path) -> None:
    fill(tmp_path, IDENTITY, Made(10, plain))
    source = Made(10, plain)
    fill(tmp_path, IDENTITY, source)
    assert source.asked == []


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling_module, "SHARD_BYTES", 300)
        fill(folder, IDENTITY, Made(12, plain))
    assert len(files(folder)) > 3
    return folder


@given(data=st.data())
@settings(max_examples=80)
def test_every_truncation_and_every_changed_bit_is_refused_by_name(data: st.DataObject, filled: Path) -> None:
    name = data.draw(st.sampled_from(sorted(files(filled))))
    content = bytearray((filled / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    with TemporaryDirectory() as changed:
        shutil.copytree(filled, changed, dirs_exist_ok=True)
        (Path(changed) / name).write_bytes(content)
        for use in (lambda: Store(changed), lambda: fill(changed, IDENTITY, Made(12, plain))):
            with pytest.raises(ArtifactError, match=f"{name}: truncated or altered"):
                use()


@pytest.mark.parametrize("kind", ["shard", "store.json"])
def test_a_missing_file_is_refused_by_name_and_nothing_is_removed(kind: str, filled: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(filled, tmp_path / "copy")
    missing = folder / next(name for name in sorted(files(folder)) if name == kind or kind == "shard")
    missing.unlink()
    left = sorted(folder.iterdir())
    with pytest.raises(ArtifactError, match=missing.name):
        fill(folder, IDENTITY, Made(12, plain))
    assert sorted(folder.iterdir()) == left


@pytest.mark.parametrize(
    ("identity", "count", "named"),
    [({**IDENTITY, "images": "abd"}, 12, "images"), ({"model": "m"}, 12, "images"), (IDENTITY, 13, "samples")],
)
def test_a_store_of_something_else_is_refused(identity: dict[str, str], count: int, named: str, filled: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"something else: it differs in {named} \("):
        fill(filled, identity, Made(count, plain))


class Unfinished(Exception):
    pass


def stopping_at(stop: int) -> Made:
    def make(number: int) -> Sample:
        if number == stop:
            raise Unfinished
        return plain(number)

    return Made(12, make)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("stop", [1, 3, 8, 11])
def test_what_is_resumed_has_the_same_files(stop: int, filled: Path, tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        fill(tmp_path, IDENTITY, stopping_at(stop))
    with pytest.raises(ArtifactError, match=f"holds {stop} of 12 samples"):
        Store(tmp_path)
    source = Made(12, plain)
    fill(tmp_path, IDENTITY, source)
    assert source.asked == list(range(stop, 12))
    assert files(tmp_path) == files(filled)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != filling_module.LOCK}


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_stops_filling_and_room_lets_it_go_on(filled: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[int] = []

        def fsync(descriptor: int) -> None:
            written.append(descriptor)
            if len(written) == 14:
                raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("os.fsync", fsync)
        with pytest.raises(SurgeryError, match=r"the disk is full, .* free some space and resume"):
            fill(tmp_path, IDENTITY, Made(12, plain))
    fill(tmp_path, IDENTITY, Made(12, plain))
    assert files(tmp_path) == files(filled)


def test_a_disk_that_is_too_small_is_said_before_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 0, 10**4))
    source = Made(100, lambda number: Sample(torch.full((1000,), float(number)), None))
    with pytest.raises(SurgeryError, match=r"at least 396\.0 kB are still to be written, and 10\.0 kB are free"):
        fill(tmp_path, IDENTITY, source)
    assert source.asked == [0]


class Titles:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.advanced = 0
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def stage(self, name: str, total: int, done: int = 0) -> Titles:
        self.seen.append((name, total, done))
        return self

    def __enter__(self) -> Titles:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        self.advanced += steps


def test_bytes_and_time_are_estimated_before_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(filling_module.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(filling_module, "SECONDS_BETWEEN_WRITES", 10.0**9)
    shown = Titles()
    source = Made(51, lambda n: Sample(torch.full((10_000,), float(n)), None))
    fill(tmp_path, IDENTITY, source, shown)
    (line,) = shown.said
    assert re.fullmatch(r"cache: 50 samples to make, about 2\.0 MB and 0:0[01]:\d\d", line)
    assert shown.seen == [("cache", 51, 0)]
    assert shown.advanced == 51


def test_what_was_skipped_is_counted_and_named(tmp_path: Path) -> None:
    shown = Titles()
    fill(tmp_path, IDENTITY, Made(100, plain), shown)
    names = ", ".join(f"{number}.png: is no image" for number in (6, 13, 20))
    assert shown.said[-1] == f"cache: 14 of 100 skipped: {names}, ..."


@pytest.mark.parametrize(
    ("conditions", "what"),
    [
        ({"added": {"x": object()}}, "conditions.added.x is of the class object"),
        ([nn.Linear(1, 1)], "conditions.0 is of the class Linear"),
        ({"size": Size(1, 2)}, "conditions.size is of the class Size"),
        ([torch.eye(2).to_sparse()], "conditions.0 is a tensor of torch.float32 with layout torch.sparse_coo on cpu"),
        (torch.zeros(1, device="meta"), "conditions is a tensor of torch.float32 with layout torch.strided on meta"),
        ({1: 2}, "conditions is a dict with keys that are no text"),
    ],
)
def test_what_a_store_cannot_hold_is_named(conditions: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{what}, which a store cannot hold"):
        fill(tmp_path, IDENTITY, Made(1, lambda _: Sample(torch.zeros(1), conditions)))


def test_a_source_of_which_nothing_can_be_made(tmp_path: Path) -> None:
    def make(number: int) -> Sample:
        raise Skipped(f"{number}.png: is no image")

    with pytest.raises(ArtifactError, match=r"no sample could be made; the first: 0\.png: is no image"):
        fill(tmp_path, IDENTITY, Made(3, make))


def test_two_processes_do_not_fill_one_store(tmp_path: Path) -> None:
    def make(number: int) -> Sample:
        with pytest.raises(SurgeryError, match="another process is filling this store"):
            fill(tmp_path, IDENTITY, Made(3, plain))
        return plain(number)

    assert len(fill(tmp_path, IDENTITY, Made(3, make))) == 3


def test_a_full_store_may_be_read_only_and_a_new_one_not(filled: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling_module, "_alone", lambda _: pytest.fail("locked"))
        assert len(fill(filled, IDENTITY, Made(12, plain))) == 11
    (tmp_path / "file").touch()
    with pytest.raises(SurgeryError, match=r"cannot be written .* choose another folder"):
        fill(tmp_path / "file", IDENTITY, Made(12, plain))
