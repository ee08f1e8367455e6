"""The benchmarks of operators, on tiny configurations, and what is made of their results."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
WIDTH = {"dim": 32, "heads": 2, "head_dim": 16, "qkv_bias": True, "out_bias": True}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield imported
    for name in (
        "growth",
        "growth_gpu",
        "growth_page",
        "growth_plot",
        "rows",
        "students",
        "analyze",
        "latency",
        "selection",
        "distil",
        "distil_page",
        "distil_plot",
        "fitted",
        "machine",
        "memory",
        "training",
    ):
        sys.modules.pop(name, None)


def test_growth_of_all_operators(load, tmp_path) -> None:
    operators = load("growth")
    configs = {name: each for name, each in operators.operators().items() if name != "grouped_query"}
    rows = {name: {} for name in configs}
    for tokens in (64, 256):
        for name, seconds in operators.times(configs, tokens, WIDTH).items():
            rows[name][str(tokens)] = {"seconds": seconds, "peak_mb": 1.0}
    operators.add_speedups(rows)
    assert rows["full"]["64"]["speedup"] == 1
    assert all(figures["seconds"] > 0 for row in rows.values() for figures in row.values())
    assert len(operators.table(rows).splitlines()) == 1 + len(rows)
    for file in load("growth_plot").draw(rows, tmp_path / "growth"):
        assert file.stat().st_size > 10_000


def test_growth_on_a_gpu_tries_each_form_at_each_size(load, tmp_path, monkeypatch) -> None:
    growth, rows = load("growth_gpu"), load("rows")
    eager = list(growth.forms("window", load("growth").operators()["window"]))
    assert [(form, compiled) for form, _, compiled in eager] == [
        ("window", False), ("window", True), ("window[flex-attention]", False)
    ]  # fmt: skip
    monkeypatch.setattr(growth, "forms", lambda *_: [eager[0], eager[2]])
    growth.measure("window", tmp_path / "rows", (64, 128), WIDTH, "cpu")
    found = rows.read(tmp_path / "rows")
    assert [row["tokens"] for row in found] == [64, 64, 128, 128]
    assert all(row["seconds"] > 0 for row in found[::2])
    assert "CUDA" in found[1]["error"]
    assert found[3]["error"].startswith("not tried")


def test_rows_are_written_whatever_happens(load, tmp_path) -> None:
    import subprocess
    import time

    rows, file = load("rows"), tmp_path / "rows"
    for wanted, raised in (("done", None), ("failed", ValueError("no")), ("late", None)):
        with rows.measured(file, 0.05 if wanted == "late" else 60, what=wanted) as row:
            row["before"] = 1
            if raised:
                raise raised
            if wanted == "late":
                time.sleep(5)
    start = {name: lambda call=call: subprocess.Popen(call, start_new_session=True)
             for name, call in {"fails": ["false"], "works": ["true"], "sleeps": ["sleep", "60"]}.items()}  # fmt: skip
    rows.in_turns(start, 2, 0.5, file)
    assert [row.get("error") for row in rows.read(file)] == [
        None, "ValueError: no", "not done after 0 s", "exit status 1", "ended after 0 s"
    ]  # fmt: skip
    assert all(row["before"] for row in rows.read(file)[:3])


def test_the_page_on_operators_has_the_figures_of_the_results(load) -> None:
    page = load("growth_page")
    results = json.loads((BENCHMARKS / "results" / "operators.json").read_text())["figures"]
    assert page.BEGIN + page.table(results) + page.END in page.PAGE.read_text()


def test_the_page_on_operators_has_the_losses_before_training(load) -> None:
    fitted = load("fitted")
    results = json.loads((BENCHMARKS / "results" / "fitted.json").read_text())["figures"]
    assert fitted.BEGIN + fitted.table(results) + fitted.END in fitted.PAGE.read_text()
    assert all(row["fitted"][0] <= row["projections"][0] for row in results.values())
    assert {name: row["operator"] for name, row in results.items()} == {
        name: fitted.named(config) for name, config in fitted.operators().items()
    }


def test_names_do_not_touch(load) -> None:
    plot = load("growth_plot")
    heights = sorted(plot._apart({"a": 0.5, "b": 0.51, "c": 0.52, "d": 0.1, "e": 0.58}).values())
    assert all(above - below >= plot.APART - 1e-9 for below, above in itertools.pairwise(heights))
    crowded = sorted(plot._apart(dict.fromkeys("abcdefgh", 0.95)).values())
    assert crowded[-1] == pytest.approx(plot.HIGHEST)
    assert all(above - below >= plot.APART - 1e-9 for below, above in itertools.pairwise(crowded))


def test_students_at_full_size_in_all_their_forms(load) -> None:
    import surgery

    students = load("students")
    graph, recipe, inputs = students.original("pixart", students.SMALL["pixart"], "cpu")
    found = dict(students.rules(recipe, None, "cpu"))
    models = {name: surgery.rewrite(graph, rules) for name, rules in found.items()}
    mixers = {name: sum(type(m).__name__ == "HyenaXMixer" for m in model.modules()) for name, model in models.items()}
    assert mixers == {"recipe": 14, "all layers": 28}
    assert students.figures(models["recipe"], inputs, "cpu")["seconds"] > 0
    graph, recipe, inputs = students.original("wan", students.SMALL["wan"], "cpu")
    for name, rules in students.rules(recipe, students.SMALL_GRID, "cuda"):
        assert len(surgery.plan(graph, rules).edits) == (1 if name == "recipe" else 2)


def test_operators_distilled_by_policy(load, tmp_path) -> None:
    from surgery.operators import MLP, FullAttention

    distil, page, plot = load("distil"), load("distil_page"), load("distil_plot")
    setting = distil.Setting(steps=2, batch_size=8, rates=(1e-2, 2e-2), samples=60, ddim_steps=1)
    configs = {"full": FullAttention(), "narrower": MLP(ratio=3)}
    kept: list[object] = []
    figures = distil.complete(distil.unmeasured(setting), configs, setting, kept.append)
    assert len(kept) == 2
    full, narrower = (figures["rows"][name]["policies"] for name in configs)
    assert full["exact"] == full["projections"]
    assert full["exact"]["start"] == pytest.approx(0, abs=1e-5)
    assert narrower["exact"]["refused"]
    assert narrower["projections"]["start"] < narrower["random"]["start"]
    assert narrower["random"]["loss"] == min(narrower["random"]["losses"].values()) < narrower["random"]["start"]
    assert distil.complete(figures, configs, setting, kept.append) == figures
    assert len(kept) == 2  # what was measured is not measured again
    assert "| narrower | `MLP(ratio=3)` | 0.75 | 0.75 |" in page.table(figures, "mlp")
    assert "`MLP(ratio=3)`: it has 288 neurons" in page.refusals(figures, "mlp")
    assert plot.draw(figures, tmp_path / "distil.png").stat().st_size > 10_000


def test_the_loss_of_a_student_is_that_of_its_training(load) -> None:
    from surgery.operators import HyenaY

    distil = load("distil")
    setting = distil.Setting(steps=1, batch_size=8)
    run = distil.prepared(HyenaY(kernel=3), "random", setting)
    loss, student = distil.trained(run, 1e-2, setting)
    assert distil.held_out_loss(run, student, setting) == pytest.approx(loss)


def test_the_page_of_distilled_operators_is_that_of_the_results(load) -> None:
    distil, page = load("distil"), load("distil_page")
    saved = json.loads((BENCHMARKS / "results" / "distil.json").read_text())
    assert (page.DOCS / "distil.md").read_text() == page.page(saved)
    rows = saved["figures"]["rows"]
    assert {name: row["operator"] for name, row in rows.items()} == {
        name: distil.written(config) for name, config in distil.operators().items()
    }


def test_steps_of_both_stages_and_a_forward_by_hand(load) -> None:
    training = load("training")
    tiny = {**training.INIT, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "norm_num_groups": 1}
    figures = training.measure(tiny, 2)
    assert set(figures) == {"forward", "distil", "finetune"}
    assert all(row["ratio"] == row["ours"] / row["by_hand"] > 0 for row in figures.values())


def test_memory_is_within_a_fifth_of_what_is_stated() -> None:
    figures = json.loads((BENCHMARKS / "results" / "memory.json").read_text())["figures"]
    rows = [row for stages in figures.values() for row in stages.values()]
    assert len(rows) == 9
    assert all(abs(row["measured"] / row["stated"] - 1) < 0.2 for row in rows)


def test_analysis_of_a_tiny_model(load) -> None:
    from diffusers import DiTTransformer2DModel

    tiny = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, norm_num_groups=1, sample_size=4, out_channels=4
    )
    figures = load("analyze").measured(tiny.eval(), 1)
    assert (figures["layers"], figures["steps"]) == (2, 1)
    assert figures["seconds"] > 0
    assert figures["peak_gb"] > 0


def test_latency_of_random_students_of_a_tiny_model(load) -> None:
    import diffusers

    import surgery
    from surgery.models.inputs import example_inputs

    latency = load("latency")
    name, more = latency.MODELS["DiT"]
    tiny = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 4, "norm_num_groups": 1}
    model = getattr(diffusers, name)(**tiny, **more(16)).eval()
    inputs = example_inputs(model)
    (row,) = latency.students(surgery.trace(model, inputs), inputs, 1, latency.time.process_time)
    assert row["edits"]
    assert row["error"] == row["predicted"] / row["measured"] - 1


def test_the_page_of_a_gpu_is_that_of_its_results(load) -> None:
    page = load("gpu_page")
    assert page.PAGE.read_text() == page.page(json.loads(page.RESULT.read_text()))


def test_the_table_of_selections(load) -> None:
    selection = load("selection")
    runs = [
        {"method": method, "seed": seed, "layers": [seed, 7], "frechet": 1.0 + seed}
        for method in selection.METHODS
        for seed in range(3)
    ]
    assert "| random | 0, 7; 1, 7; 2, 7 | 2.00 | 1.00, 2.00, 3.00 |" in selection.table(runs)
