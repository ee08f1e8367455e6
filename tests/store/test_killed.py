"""A store whose filling was killed at any moment, however often, ends with the same files as one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from surgery.store import Store
from surgery.testing import profiles
from tests.store.killed import COUNT
from tests.store.test_store import files

KILLS = 20 if profiles.chosen() == "nightly" else 4


def test_sigkill_loses_no_sample_and_makes_none_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.store.killed", str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] == KILLS
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(Store(tmp_path / "killed")) == COUNT - COUNT // 7
    assert len(outcome["made"]) <= COUNT + KILLS  # again only what was being made, or written
    assert len(set(outcome["made"])) == COUNT
