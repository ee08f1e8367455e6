from __future__ import annotations

import io
import re

import pytest

import surgery.progress
from surgery.progress import RichProgress, SilentProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def show(stream: io.StringIO, total: int = 4, done: int = 0) -> str:
    with RichProgress(stream).stage("distil", total=total, done=done) as stage:
        for _ in range(total - done):
            stage.advance(loss=0.125)
    return stream.getvalue()


def test_a_pipe_gets_one_plain_line_at_the_end_of_a_short_stage() -> None:
    shown = show(io.StringIO(), done=1)
    assert re.fullmatch(r"distil 4/4, loss 0\.125, [\d.]+ it/s, 0:00:00 left\n", shown)


def test_a_pipe_gets_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(surgery.progress.time, "monotonic", lambda: float(next(clock)))
    lines = show(io.StringIO(), total=10).splitlines()
    assert 2 <= len(lines) < 10
    assert lines[-1].startswith("distil 10/10")
    assert len(set(lines)) == len(lines)


def test_a_pipe_never_gets_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in show(io.StringIO())


def test_the_rate_of_a_resumed_stage_leaves_out_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0] + [1.0] * 20)
    monkeypatch.setattr(surgery.progress.time, "monotonic", lambda: next(clock))
    assert ", 2.00 it/s" in show(io.StringIO(), total=100, done=98)


def test_a_terminal_gets_a_bar_with_loss_and_rate(terminal: Terminal) -> None:
    shown = show(terminal)
    assert "━" in shown
    assert "4/4" in shown
    assert "loss 0.125" in shown
    assert "it/s" in shown


def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-9]|9[0-7])[0-9;]*m")
    assert colour.search(show(terminal))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour.search(show(Terminal()))


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert show(terminal).startswith("distil 4/4, loss")


def test_an_error_in_a_stage_shows_how_far_it_came() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="stop"), RichProgress(stream).stage("distil", total=4) as stage:  # noqa: PT012
        stage.advance(loss=0.5)
        raise ValueError("stop")
    assert stream.getvalue().startswith("distil 1/4, loss 0.5")


def test_the_default_is_stderr_and_the_loss_is_optional(capsys: pytest.CaptureFixture[str]) -> None:
    with RichProgress().stage("samples", total=8) as stage:
        stage.advance(8)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("samples 8/8")
    assert "loss" not in shown.err


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentProgress().stage("distil", total=1) as stage:
        stage.advance(loss=1.0)
    assert capsys.readouterr() == ("", "")
