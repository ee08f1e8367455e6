"""A command that is interrupted ends with one line, and with the status that a shell expects."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgery.cli import main


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT is heard, even if a shell that ran the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, number: signal.Signals
) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    before = signal.getsignal(number)
    assert main(["apply", str(recipe), "--out", str(tmp_path / "run")]) == 128 + number
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("surgery: ")]
    assert said == ["surgery: interrupted; a run goes on if its command is repeated with --resume"]
    assert signal.getsignal(number) is before
