"""A store is the same however many processes make its samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.parallel.group import rank
from surgery.store import Sample, Store, fill
from tests.parallel.world import in_processes
from tests.run.test_killed import files
from tests.store.fake import Made, plain

IDENTITY = {"made of": "numbers"}


@pytest.mark.parametrize("count", [2, 17])
def test_each_sample_is_made_once_and_the_files_are_those_of_one_process(tmp_path: Path, count: int) -> None:
    def work() -> tuple[list[int], int]:
        source = Made(count, plain)
        return source.asked, len(fill(tmp_path / "three", IDENTITY, source))

    fill(tmp_path / "one", IDENTITY, Made(count, plain))
    found = in_processes(3, work)
    assert sorted(number for asked, _ in found for number in asked) == list(range(count))
    assert {length for _, length in found} == {len(Store(tmp_path / "one"))}
    assert files(tmp_path / "three") == files(tmp_path / "one")


def test_what_fewer_processes_began_more_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.store.filling.SHARD_SOURCES", 3)

    def failing(number: int) -> Sample:
        if number == 9:
            raise ValueError("broken off")
        return plain(number)

    def work(make=plain) -> list[int]:
        source = Made(13, make)
        fill(tmp_path / "many", IDENTITY, source)
        return source.asked

    fill(tmp_path / "one", IDENTITY, Made(13, plain))
    in_processes(2, lambda: work(failing))
    found = in_processes(3, work)
    assert min(number for asked in found for number in asked) == 6  # two shards are full
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert rank() == 0
