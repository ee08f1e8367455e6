"""Where a command is to write is looked at before it does any work: its other arguments here would fail later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgery.errors import RecipeError
from surgery.files import require_file, require_folder
from surgery.recipe import load_recipe
from surgery.run.folder import RunFolder
from surgery.run.lock import locked
from tests.cli.test_cli import only_line, run

NOWHERE = ["--set", "model=nowhere"]
"""A model that cannot be opened."""
BUDGET = ["--budget", "flops=0.9"]
FOLDERS = {
    "apply": ["RECIPE", *NOWHERE],
    "cache": ["RECIPE", *NOWHERE, "--set", 'data={"kind": "images", "folder": "none"}'],
    "search": ["RECIPE", *NOWHERE, *BUDGET],
    "sweep": ["RECIPE", *NOWHERE],
    "analyze": ["nowhere"],
}
FILES = {"sample": ".png", "compare": ".html", "inspect": ".svg", "diff": ".svg"}


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_cannot_be_written_is_told_at_once(capsys, tmp_path, write_recipe, command):
    (tmp_path / "file").touch()
    given = [str(write_recipe()) if each == "RECIPE" else each for each in FOLDERS[command]]
    wrong = {"file": "is a file", "file/x": "cannot be written (Not a directory)"}
    if Path("/proc/self").exists():
        wrong["/proc/x"] = "cannot be written (No such file or directory)"
    for name, why in wrong.items():
        status, _, err = run(capsys, command, *given, "--out", tmp_path / name)
        assert (status, only_line(err)) == (2, f"{tmp_path / name}: {why}; choose another --out")
    assert {path.name for path in tmp_path.iterdir()} <= {"file", "recipe.py"}


@pytest.mark.parametrize("command", ["apply", "search"])
def test_a_library_that_cannot_be_written_is_told_at_once(capsys, tmp_path, write_recipe, command):
    given = [write_recipe(), *NOWHERE, *(BUDGET if command == "search" else []), "--out", tmp_path / "run"]
    (tmp_path / "file").touch()
    status, _, err = run(capsys, command, *given, "--set", f"distil.library={tmp_path / 'file' / 'x'}")
    why = f"{tmp_path / 'file' / 'x'}: cannot be written (Not a directory); choose another distil.library"
    assert (status, only_line(err)) == (2, why)
    assert not (tmp_path / "run").exists()


def test_logs_that_cannot_be_written_are_told_at_once(capsys, tmp_path, write_recipe):
    (tmp_path / "file").touch()
    given = [write_recipe(), "--out", tmp_path / "run", "--gpus", "2", "--log-dir", tmp_path / "file"]
    status, _, err = run(capsys, "apply", *given)
    assert (status, only_line(err)) == (2, f"{tmp_path / 'file'}: is a file; choose another --log-dir")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_cannot_be_written_is_told_at_once(capsys, tmp_path, command):
    (tmp_path / "file").touch()
    suffix, given = FILES[command], ["nowhere"] * (2 if command == "diff" else 1)
    option = "--svg" if suffix == ".svg" else "--out"
    (tmp_path / f"folder{suffix}").mkdir()
    wrong = {
        f"file/x{suffix}": "cannot be written (Not a directory)", f"folder{suffix}": "is a folder",
        f"/proc/x{suffix}": "cannot be written (No such file or directory)",
    }  # fmt: skip
    for name, why in wrong.items():
        if Path(name).root and not Path("/proc/self").exists():
            continue
        status, _, err = run(capsys, command, *given, option, tmp_path / name)
        assert (status, only_line(err)) == (2, f"{tmp_path / name}: {why}; choose another {option}")
    status, _, err = run(capsys, command, *given, option, tmp_path / "x.jpg")
    assert status == 2
    assert f"{option} {tmp_path / 'x.jpg'}: name a file that ends in {suffix}" in only_line(err)
    assert len([*tmp_path.iterdir()]) == 2


def test_what_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "old.PNG").write_text("old")
    for path in ("old.PNG", "new.png", "a/b/new.png"):
        require_file(tmp_path / path, ".png")
    for folder in (tmp_path, tmp_path / "a/b", Path("new")):
        require_folder(folder)
    require_folder(None)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.PNG", "old")]


@pytest.mark.parametrize("command", ["apply", "search"])
def test_a_folder_of_another_run_is_told_at_once(capsys, tmp_path, write_recipe, command):
    recipe = write_recipe()
    given = [command, recipe, *NOWHERE, "--out", tmp_path / "run", *(BUDGET if command == "search" else [])]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(load_recipe(recipe).model_dump(mode="json")))
    status, _, err = run(capsys, *given)
    assert status == 2
    assert "holds another run; continue it with --resume (in Python, resume=True), or" in only_line(err)
    status, _, err = run(capsys, *given, "--resume")
    assert status == 2
    assert "holds a run of another recipe, it differs in model" in only_line(err)
    with locked(tmp_path / "run"):
        assert "another process runs in this folder" in run(capsys, *given, "--resume")[2]
    (tmp_path / "run" / "recipe.json").rename(tmp_path / "run" / "mine.json")
    assert "holds other files" in only_line(run(capsys, *given)[2])


def test_data_fit_the_folder_of_every_run(tmp_path):
    RunFolder.open(tmp_path / "run", {"seed": 0}, resume=False)
    RunFolder.require(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").touch()
    with pytest.raises(RecipeError, match="holds other files"):
        RunFolder.require(tmp_path / "mine")


def test_data_that_cannot_be_made_leave_no_folder_behind(capsys, tmp_path, write_recipe):
    data = f'data={{"kind": "images", "folder": "{tmp_path}"}}'
    assert run(capsys, "cache", write_recipe(), "--set", data, "--out", tmp_path / "run")[0] == 1
    assert not (tmp_path / "run").exists()
