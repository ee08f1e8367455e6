"""The benchmark of operators, on a tiny configuration."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WIDTH = {"dim": 32, "heads": 2, "head_dim": 16, "qkv_bias": True, "out_bias": True}
TINY_PIXART = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "caption_channels": 8,
    "sample_size": 8,
    "interpolation_scale": 1,
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield imported
    for name in ("operators", "growth_plot", "pixart", "machine"):
        sys.modules.pop(name, None)


def test_growth_of_all_operators(load, tmp_path) -> None:
    operators = load("operators")
    configs = {name: each for name, each in operators.operators().items() if name != "grouped_query"}
    rows = operators.in_this_process(operators.with_kernels(configs, WIDTH, "cpu"), (64, 256), WIDTH, "cpu")
    operators.add_speedups(rows)
    assert set(rows) == set(configs)  # no kernel is installed on a CPU
    assert rows["full"]["64"]["speedup"] == 1
    assert all(figures["seconds"] > 0 for row in rows.values() for figures in row.values())
    assert len(operators.table(rows).splitlines()) == 1 + len(rows)
    for row in rows.values():
        for figures in row.values():
            figures["peak_mb"] += 1.0  # so small that a page more or less is all there is
    for file in load("growth_plot").draw(rows, tmp_path / "growth"):
        assert file.stat().st_size > 10_000


def test_names_do_not_touch(load) -> None:
    plot = load("growth_plot")
    heights = sorted(plot._apart({"a": 0.5, "b": 0.51, "c": 0.52, "d": 0.1, "e": 0.58}).values())
    assert all(above - below >= plot.APART - 1e-9 for below, above in itertools.pairwise(heights))


def test_pixart_in_three_forms(load) -> None:
    import torch

    pixart = load("pixart")
    rows = pixart.compare(TINY_PIXART, "cpu")
    assert list(rows) == ["original", "hyena_x_14_of_28", "hyena_x_28_of_28"]
    assert rows["original"]["speedup"] == 1
    built = pixart.models(TINY_PIXART, "cpu", torch.float32)
    mixers = [sum(type(m).__name__ == "HyenaXMixer" for m in model.modules()) for model in built.values()]
    assert mixers == [0, 14, 28]
