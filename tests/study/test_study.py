"""The study's rows can be planned, one of them runs from end to end, and the page is made of what was saved."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from surgery.models import load_pretrained
from surgery.models.inputs import example_inputs
from surgery.rewriting import indices, plan
from surgery.tracing import trace

FOLDER = Path(__file__).parents[2] / "recipes" / "study"


@pytest.fixture(scope="module")
def study():
    """The modules of the study, which are no package."""
    sys.path.insert(0, str(FOLDER))
    import found
    import page
    import plots
    import rows
    import study
    import words

    yield {"page": page, "plots": plots, "rows": rows, "found": found, "study": study, "words": words}
    sys.path.remove(str(FOLDER))


def test_rows_have_names_of_their_own_and_fit_both_benches(study):
    for blocks in (8, 12):
        rows = study["rows"].rows(blocks)
        assert len({study["study"]._file_name(row.key, 0) for row in rows}) == len(rows)
    model = load_pretrained("digits-dit").model
    graph = trace(model, example_inputs(model))
    for row in study["rows"].rows(8)[::12]:
        assert plan(graph, row.rules).edits


def test_a_row_is_trained_judged_and_shown(study, tmp_path, monkeypatch):
    run = study["study"]
    monkeypatch.setattr(run, "evaluate_samples", drawn)
    monkeypatch.setattr(run, "FLOOR", 6)
    blend = next(row for row in study["rows"].rows(8) if row.key == "all attention: Blend")
    row = replace(blend, distil=0, finetune=1)
    made = run.Study("digits", tmp_path, tmp_path, "cpu", "cpu", 1)
    run._kept(tmp_path / "teacher.json", made.teacher)
    done, said = run._one(made, (row, 0))
    assert done, said
    run._save(tmp_path, [(row, 0), (row, 1)], tmp_path / "digits.json")
    saved = json.loads((tmp_path / "digits.json").read_text())
    assert saved["missing"] == [f"{row.key}, seed 1"]
    assert run._one(made, (row, 0)) == (done, said)  # it is not done again
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run._take_over(tmp_path / "digits.json", elsewhere)
    assert run._one(replace(made, out=elsewhere), (row, 0)) == (done, said)  # nor on another machine
    assert len(list(elsewhere.iterdir())) == 2

    page = study["page"]
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    page.main()
    text = (tmp_path / "study.md").read_text()
    assert f"| {row.name} | 1.00 ± 0.00 |" in text
    assert "1 of 2 trainings" in text
    assert "### Not run yet\n\n- all attention, seed 1: all rows\n" in text
    assert (tmp_path / "images" / "study-digits-0.png").exists()


def test_what_trainings_differ_by_and_which_are_missing_is_said(study, tmp_path, monkeypatch):
    def made(name: str, seed: int, times: float) -> dict[str, object]:
        return {
            "group": "a", "name": name, "seed": seed, "frechet": [times, 2 * times], "accuracy": [1.0],
            "params": [1, 1], "flops": [1, 1],
        }  # fmt: skip

    teacher = {"frechet": [1.0, 2.0, 3.0], "accuracy": [1.0]}
    rows = [made("x", 0, 0.9), made("x", 1, 1.1), made("y", 0, 2.0)]
    missing = ["a: x, seed 2", "a: y, seed 1", "a: y, seed 2"]
    (tmp_path / "digits.json").write_text(json.dumps({"teacher": teacher, "rows": rows, "missing": missing}))
    monkeypatch.setattr(study["page"], "RESULTS", tmp_path)
    results = study["page"].Results("digits")
    assert results.spread().startswith("Trainings of a row from different seeds differ by 14.1% ")
    assert "from 1 of the rows" in results.spread()
    assert results.not_made() == "- a, seed 2: all rows\n- a, seed 1: y"
    assert [(row.name, row.seeds, round(row.ratio, 6)) for row in results.rows()] == [("x", 2, 1.0), ("y", 1, 2.0)]


def test_layers_are_found_that_cost_no_more(study, tmp_path, monkeypatch):
    layers, (row,) = study["found"], [row for row in study["rows"].rows(8) if row.like is not None]
    monkeypatch.setattr(layers, "STEPS", 1)
    monkeypatch.setattr(layers, "SHORTLIST", 1)
    monkeypatch.setattr(layers, "JUDGED", None)
    recipe = row.recipe("digits-dit", "digits", 0, tmp_path / "grafts")
    found = layers.searched(recipe, row.like, tmp_path / "search", "cpu")
    model = load_pretrained("digits-dit").model
    graph = trace(model, example_inputs(model))
    limit = recipe.rules[0].model_copy(update={"layers": row.like})
    assert plan(graph, found.rules).after.flops <= plan(graph, [limit]).after.flops
    assert found.model_copy(update={"rules": recipe.rules}) == recipe
    (harmed,) = (row for row in study["rows"].rows(8) if row.least_harmed == 4)
    recipe = harmed.recipe("digits-dit", "digits", 0, tmp_path / "grafts")
    (rule,) = layers.least_harmed(recipe, 4, "cpu").rules
    assert rule.layers == indices(1, 2, 3, 6)


def test_the_page_compares_rows_across_groups(study):
    page, words = study["page"], study["words"]
    keys = {row.key for row in study["rows"].rows(8)}
    groups = {row.group for row in study["rows"].rows(8)}
    for comparison in words.COMPARISONS:
        assert set(comparison.groups) <= groups
        assert comparison.beside.keys() <= keys
        for reading in comparison.reading.values():
            assert set(re.findall(r"\{0\[(.*?)\]", reading, re.DOTALL)) <= keys
    made = [
        page.Judged(*key.split(": "), 1.1, 0.1, 0.9, 1.0, 1.0, 1)
        for key in ("stages: Blend, stage 1 only", words.BLEND)
    ]
    (stages,) = (each for each in words.COMPARISONS if each.groups == ("stages",))
    assert [row.label for row in page.compared(stages, made)] == ["Blend, both", "Blend, stage 1 only"]
    assert page.compared(stages, made[1:]) == []
    assert page.published("Table 4", "Mamba-2, 100 %") == float("inf")


def test_an_axis_shows_all_rows_and_what_is_beyond_it_at_its_edge(study, tmp_path):
    from matplotlib import pyplot as plt

    page, plots = study["page"], study["plots"]
    rows = [page.Judged("a", "b", ratio, 0.1, 0.9, 1.0, 1.0, 1, paper) for ratio, paper in
            ((0.6, None), (9.7, float("inf")), (1.2, 1.1), (4.0, 7.0))]  # fmt: skip
    for chosen in (rows, rows[:1], rows[1:2], rows[2:3]):
        least, most = plots.limits(chosen, 0.05)
        ticks = plots.ticks_of(least, most)
        assert least < min(row.ratio for row in chosen) <= max(row.ratio for row in chosen) < most
        assert ticks[0] <= max(min(row.ratio for row in chosen), 1)
        assert ticks[-1] > most / 2.5
    plots.draw(rows, 0.05, tmp_path / "plot.png")
    figure, panel = plt.subplots()
    plots._mark(panel, float("inf"), 0)
    panel.set_xlim(0.5, 50)
    figure.canvas.draw()
    (mark,) = panel.collections
    at = mark.get_offset_transform().transform(mark.get_offsets())[0][0]
    assert at == pytest.approx(panel.transData.transform((50, 0))[0])
    plt.close(figure)


def drawn(model, scheduler, *, steps, seed):
    return torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(60) % 10
