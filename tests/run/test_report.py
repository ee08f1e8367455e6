"""What a run leaves about itself: how it was made, how its student is loaded, and its losses while it goes on."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

from surgery.cli import main
from surgery.recipe import Recipe, load_recipe
from surgery.run.folder import RunFolder
from surgery.run.loggers.lines import Lines, read_lines
from surgery.run.report import report_of
from surgery.training.record import LossRecord


def test_the_page_says_how_the_run_was_made_and_how_to_load_the_student(trained_run):
    page = (trained_run / "report.html").read_text()
    (origin,) = json.loads((trained_run / "run.json").read_text())
    for value in (origin["started"], origin["device"], *origin["versions"].values()):
        assert str(value) in page
    assert set(origin["versions"]) == {"python", "torch", "diffusers", "surgery"}
    assert "replace_attention(HyenaX(), layers=every(2))" in page
    code = re.search(r'aria-label="how to load the student"><code>(.*?)</code>', page, flags=re.DOTALL)
    found: dict[str, object] = {}
    exec(unescape(code[1]), found)
    assert type(found["student"].transformer_blocks[1].attn1).__name__ == "HyenaXMixer"
    assert len(found["pictures"]) == 10


def test_the_recipe_in_the_folder_can_be_run(trained_run):
    recipe = load_recipe(trained_run / "recipe.py")
    assert recipe == Recipe.model_validate(RunFolder(trained_run).recipe())


def test_a_run_that_goes_on_has_a_report_of_what_there_is(copied_run, capsys):
    run = copied_run("run")
    records = json.loads((run / "losses.json").read_text())
    (run / "losses.json").unlink()
    (run / "model" / "surgery.json").unlink()
    (run / "losses.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records[:15]))
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "it has come to step 3 of 12 of the stage finetune" in page
    assert "Finetuning" in page
    assert "Use the student" not in page
    for name in ("losses.jsonl", "metrics.json", "graph.svg"):
        (run / name).unlink()
    assert "only planned yet" in report_of(RunFolder(run))
    (run / "plan.json").unlink()
    assert main(["report", str(run)]) == 1
    assert "plan.json: cannot be read" in capsys.readouterr().err


def test_a_folder_that_is_no_run_has_no_report(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err == f"surgery: {tmp_path}: holds no run; name a folder that surgery apply has written\n"
    )


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_lines_are_read_whatever_a_kill_has_left(tmp_path, cut):
    records = [LossRecord("distil", step, step / 2, {"a": 0.5}) for step in range(1, 8)]
    for some in (records[:5], records[3:]):  # steps after the last checkpoint are made again
        lines = Lines(tmp_path / "losses.jsonl")
        for record in some:
            lines.loss(record)
        lines.close()
        text = (tmp_path / "losses.jsonl").read_text()
        (tmp_path / "losses.jsonl").write_text(text[: len(text) - cut] if some[0].step > 1 else text)
    steps = [record["step"] for record in read_lines((tmp_path / "losses.jsonl").read_text())]
    assert steps == list(range(1, 8 if cut < 2 else 7))


def test_a_run_leaves_no_lines_and_whoever_resumes_is_noted(trained_run, copied_run):
    assert not (trained_run / "losses.jsonl").exists()
    folder = RunFolder(copied_run("run"))
    (origin,) = folder.origins()
    folder.add_origin(origin)
    assert len(folder.origins()) == 1  # there was nothing left to do
    folder.remove("losses.json")
    folder.add_origin(origin)
    assert len(folder.origins()) == 2
