"""A divided run whose processes are killed, one or all, ends with the files of one whose were not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.test_killed import files

KILLS = 4


@pytest.mark.nightly
def test_sigkill_of_one_or_all_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.parallel.killed", str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout.splitlines()[-1]).values()) == KILLS
    require_equal(tmp_path)


def require_equal(folder: Path) -> None:
    for part in ("data", "model"):
        assert files(folder / "killed" / part) == files(folder / "whole" / part), part
    killed, whole = ((folder / run / "losses.json").read_text() for run in ("killed", "whole"))
    assert killed == whole
