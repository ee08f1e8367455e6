"""What commands print."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from surgery.rewriting import Plan
    from surgery.run.memory import Memory


def show_plan(planned: Plan, as_json: bool, memory: Memory | None = None) -> None:
    """Edits, skipped sites and totals of a plan, and what memory its stages take."""
    from surgery.run.terminal import memory_view, plan_view

    if as_json:
        plain = planned.model_dump(mode="json")
        return print_json(plain if memory is None else {**plain, "memory": memory.plain()})
    console().print(plan_view(planned))
    if memory is not None:
        console().print(memory_view(memory))
    return None


def show_kernels(as_json: bool) -> None:
    """The optional kernels, and which of them each operator uses on this machine."""
    from dataclasses import asdict

    from surgery.operators.backends.report import devices, kernels
    from surgery.run.terminal import kernel_tables

    known, at_hand = kernels(), devices()
    if as_json:
        return print_json({"kernels": [asdict(k) for k in known], "devices": [asdict(d) for d in at_hand]})
    console().print(kernel_tables(known, at_hand))
    return None


def show_presets(as_json: bool) -> None:
    """The checkpoints whose configs come with surgery."""
    from surgery.models.presets import presets

    if as_json:
        return print_json(presets())
    print("\n".join(presets()))
    return None


def show_wiring(model: str, call: Path | None, as_json: bool) -> None:
    """How the pipeline called `model` feeds its transformer, measured by a call with the keywords in a JSON file."""
    from surgery.pipelines import measure
    from surgery.pipelines.describe import wiring_plain, wiring_view
    from surgery.pipelines.load import call_of, load_pipeline
    from surgery.run.subject_to_analyze import pipeline_of

    pipeline = pipeline_of(model) or load_pipeline(model)
    wiring = measure(pipeline, call_of(pipeline, call))
    if as_json:
        return print_json(wiring_plain(wiring))
    console().print(wiring_view(wiring))
    return None


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Lets what a recipe prints go to stderr, as stdout holds the result alone, and what libraries log there go once."""
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        for handler in _handlers():
            handler.addFilter(once := _Once())
            stack.callback(handler.removeFilter, once)
        yield


class _Once(logging.Filter):
    """Passes a message of a logger once: a pipeline that is driven often repeats its warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.name, record.getMessage()
        is_new = message not in self._said
        self._said.add(message)
        return is_new


def _handlers() -> list[logging.Handler]:
    """Those by which the libraries of pipelines write to stderr; importing one adds them."""
    from surgery.pipelines.load import libraries

    return [handler for each in libraries() for handler in logging.getLogger(each.__name__).handlers]


def print_json(content: Any) -> None:
    """Write plain data to stdout."""
    print(json.dumps(content, indent=2))


def console() -> Console:
    """Standard output; a file or pipe is taken to be wide, so that no cell is folded."""
    return Console() if sys.stdout.isatty() else Console(width=160)
