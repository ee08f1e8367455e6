from __future__ import annotations

import os
import pickle
import signal

import pytest
import torch

from surgery.errors import ConfigError, RecipeError, SurgeryError
from surgery.parallel.division import divided, evened, sum_over_all
from surgery.parallel.group import add_up, by_first, from_all, is_first, rank, size, to_first
from tests.parallel.world import in_processes
from tests.training import tiny


def test_one_process_is_a_group_of_its_own() -> None:
    assert (size(), rank(), is_first()) == (1, 0, True)
    assert by_first(lambda: 3) == 3
    assert from_all("a") == to_first("a") == ["a"]
    assert divided(3).rows == [0, 1, 2]
    assert sum_over_all(1 / 3) == 1 / 3


def test_what_the_first_does_the_others_wait_for() -> None:
    def work() -> object:
        inside = by_first(lambda: (size(), by_first(rank)))
        tensor = torch.tensor([float(rank())])
        add_up([tensor])
        return inside, from_all(rank()), to_first(rank()), float(tensor), sum_over_all(0.5)

    first, *others = in_processes(3, work)
    assert first == ((1, 0), [0, 1, 2], [0, 1, 2], 3.0, 1.5)
    assert others == 2 * [((1, 0), [0, 1, 2], [], 3.0, 1.5)]


def test_an_error_of_the_first_is_raised_in_all() -> None:
    def fail() -> None:
        raise RecipeError("no such thing")

    found = in_processes(2, lambda: by_first(fail))
    assert all(text.startswith("RecipeError: no such thing") for text in found)


def test_the_others_do_not_wait_for_a_first_one_that_failed_otherwise() -> None:
    def fail() -> None:
        raise OSError(28, "no space left")

    def work() -> str:
        try:
            return str(by_first(fail))
        except Exception as error:
            return f"{type(error).__name__}, then {from_all(rank())}"  # all are still there

    assert in_processes(3, work) == ["OSError, then [0, 1, 2]", *2 * ["LostError, then [0, 1, 2]"]]


@pytest.mark.parametrize("error", [ConfigError(["a", "b"]), RecipeError("no")])
def test_errors_reach_other_processes_as_they_are(error: SurgeryError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_the_others_notice_that_a_process_was_killed() -> None:
    def work() -> None:
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        from_all(rank())

    first, other = in_processes(2, work)
    assert first.startswith("LostError: another process of this run has ended; repeat the command with --resume")
    assert other == "killed"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_batch_is_divided_without_rest(count: int) -> None:
    def work() -> object:
        own = divided(count)
        return own.rows, own.weight

    parts = in_processes(3, work)
    assert sorted(row for rows, weight in parts for row in rows if weight) == list(range(count))
    assert all(rows for rows, _ in parts)  # each runs something


def test_all_run_as_many_forwards() -> None:
    forwards = tiny.data().source(tiny.teacher(), stage="distil", batch_size=4, seed=0).training(0)

    def work() -> list[float]:
        return [part.share for part in evened((1 + rank()) * list(forwards))]

    assert in_processes(2, work) == [[1.0, 0.0], [1.0, 1.0]]
