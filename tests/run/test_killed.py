"""A run that is killed while it caches and trains, however often, ends with the same files as one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from surgery.store.filling import LOCK
from surgery.testing import profiles

KILLS = 20 if profiles.chosen() == "nightly" else 2


def test_sigkill_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.run.killed", str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == KILLS
    for part in ("data", "model"):
        assert files(tmp_path / "killed" / part) == files(tmp_path / "whole" / part), part
    losses = [(tmp_path / run / "losses.json").read_text() for run in ("killed", "whole")]
    assert losses[0] == losses[1]


def files(folder: Path) -> dict[Path, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {path.relative_to(folder): path.read_bytes() for path in paths}
