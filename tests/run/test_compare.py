"""Runs are put side by side as they are: seeds together, the unfinished with what they have, others by name."""

from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.cli import main
from surgery.evaluate.comparison import Spread
from surgery.evaluate.report.words import spread_words
from surgery.run.compare import compare, plain


@given(st.lists(st.floats(-1e6, 1e6) | st.none(), max_size=5))
def test_a_spread_is_mean_and_standard_deviation_of_what_there_is(values):
    known = [value for value in values if value is not None]
    spread = Spread.of(values)
    assert (spread is None) == (not known)
    if spread is not None:
        assert spread.runs == len(known)
        assert spread.mean == pytest.approx(statistics.fmean(known))
        assert spread.deviation == (pytest.approx(statistics.stdev(known)) if len(known) > 1 else None)


@pytest.mark.parametrize(
    ("mean", "deviation", "unit", "words"),
    [
        (2.2, 0.088, "", "2.20 ± 0.09"),
        (0.002, 0.0004, "", "0.002 ± 0.0004"),
        (0.99, 0.004, "share", "99.0\u00a0% ± 0.4\u00a0%"),
        (36.3, 1.25, "ms", "36.30 ms ± 1.25 ms"),
        (1.0, None, "", "1.00"),
    ],
)
def test_mean_and_spread_have_the_same_places(mean, deviation, unit, words):
    assert spread_words(Spread(mean, deviation, 2), unit) == words


def change(folder, name, edit):
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def runs(copied_run):
    """Two runs that differ by their seed, one with another kernel, and one that has not ended."""
    a, b, other, going = (copied_run(name) for name in ("a", "b", "other", "going"))
    change(b, "recipe.json", lambda recipe: recipe.update(seed=1))
    change(b, "metrics.json", lambda metrics: (metrics.update(seed=1), metrics["stages"][3].update(frechet=7.0)))
    change(a, "metrics.json", lambda metrics: metrics["stages"][3].update(frechet=5.0))
    change(other, "recipe.json", lambda recipe: recipe["rules"][0]["operator"].update(kernel=9))
    change(going, "recipe.json", lambda recipe: recipe["distil"].update(steps=99))
    for line in ("model", "checkpoints", "samples"):
        for file in (going / line).rglob("*"):
            if file.is_file():
                file.unlink()
    (going / "metrics.json").unlink()
    records = json.loads((going / "losses.json").read_text())[:5]
    (going / "losses.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records) + '{"stage": "dis')
    (going / "losses.json").unlink()
    return [a, b, other, going]


def test_seeds_are_taken_together_and_differences_are_named(runs):
    found = plain(compare(runs))
    assert [group["name"] for group in found["groups"]] == ["a", "other", "going"]
    both, other, going = found["groups"]
    assert [(run["seed"], run["ended"]) for run in both["runs"]] == [(0, True), (1, True)]
    assert both["stages"][-1]["frechet"] == {"mean": 6.0, "deviation": pytest.approx(2**0.5), "runs": 2}
    assert other["stages"][-1]["frechet"]["deviation"] is None
    assert not going["runs"][0]["ended"]
    assert all(stage["frechet"] is None for stage in going["stages"])
    assert both["differs"]["distil.steps"] == "12"
    assert going["differs"]["distil.steps"] == "99"
    assert both["differs"]["rules"] == "replace_attention(HyenaX(), layers=every(2))"
    assert other["differs"]["rules"] == "replace_attention(HyenaX(kernel=9), layers=every(2))"


def test_the_page_the_table_and_the_json_say_the_same(runs, tmp_path, capsys):
    out = tmp_path / "c.html"
    assert main(["compare", *map(str, runs), "--out", str(out)]) == 0
    table = capsys.readouterr().out
    page = out.read_text()
    assert "6.00 ± 1.41" in table
    assert "6.00 ± 1.41" in page
    assert "it has come to step 5 of 99 of the stage distil" in page
    assert page.count("samples of the model") == 3
    out.unlink()
    assert main(["compare", *map(str, runs), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(plain(compare(runs))))
    assert not out.exists()


def test_runs_that_were_judged_otherwise_are_not_ranked(runs, tmp_path, capsys):
    change(runs[2], "recipe.json", lambda recipe: recipe["evaluate"].update(samples=61))
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "c.html")]) == 0
    words = "The runs differ in evaluate.samples: figures of quality are not comparable"
    assert words in capsys.readouterr().out
    assert words in (page := (tmp_path / "c.html").read_text())
    assert "has the lowest" not in page


def test_what_is_no_run_is_one_line(trained_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "none"):
        assert main(["compare", str(trained_run), str(wrong)]) == 1
        assert (
            f"surgery: {wrong}: holds no run; name a folder that surgery apply has written\n" == capsys.readouterr().err
        )
    twice = f"{trained_run}/../{trained_run.name}"
    assert main(["compare", str(trained_run), twice]) == 2
    assert capsys.readouterr().err == f"surgery: {twice}: is named twice; leave one of them out\n"
    assert main(["compare"]) == 2
    assert "compare needs folders of runs" in capsys.readouterr().err


def test_a_second_run_of_a_seed_is_no_second_seed(copied_run):
    a, again, b, again_b = (copied_run(name) for name in ("a", "again", "b", "again_b"))
    for folder in (b, again_b):
        change(folder, "recipe.json", lambda recipe: recipe.update(seed=1))
    groups = compare([a, again, b, again_b]).groups
    assert [[member.folder for member in group.members] for group in groups] == [
        [str(a), str(b)],
        [str(again), str(again_b)],
    ]
