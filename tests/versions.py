"""Runs the core of the suite on the oldest and the newest torch and diffusers, and on each Python that is there.

`make versions` writes the table into docs/versions.md, a row as soon as it is known; `python -m tests.versions 3.12 3.13`
makes the rows of these Pythons anew. Each row has a virtual environment of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "versions.md"
CORE = [f"tests/{name}" for name in ("tracing", "rewriting", "graph", "training", "compat", "operators")]
PYTHONS = ("3.11", "3.12", "3.13")
PACKAGES = ("torch", "diffusers")
HEAD = """# Versions

The core of the suite (tracing, rewriting, graphs, training, compatibility, operators) on the oldest torch and diffusers
that the package asks for, and on the newest that could be installed. Written by `make versions`.

| Python | torch | diffusers | tests |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Setting:
    """A row of the table: a Python, and either the oldest or the newest packages."""

    python: str
    pins: Mapping[str, str]


def oldest() -> dict[str, str]:
    """The lower bound of each package in pyproject.toml, e.g. `{"torch": "2.11"}`."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(re.match(r"([\w-]+)>=([\d.]+)", each).groups() for each in asked)
    return {name: bounds[name] for name in PACKAGES}


def settings(pythons: Iterable[str]) -> list[Setting]:
    """The newest packages on each Python that is there, and before them the oldest on the oldest Python."""
    found = [Setting(python, {}) for python in pythons if _works(f"python{python}")]
    return [Setting(PYTHONS[0], oldest()), *found] if PYTHONS[0] in pythons else found


def _works(command: str) -> bool:
    """Whether a Python of this name runs; some are stubs that only say which versions there are."""
    return bool(shutil.which(command)) and _run([command, "-V"]).returncode == 0


def row(setting: Setting, tests: Iterable[str] = CORE) -> str:
    """Set the packages up, run the tests, and say what came out."""
    pins = [f"{name}=={version}.*" for name, version in setting.pins.items()]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([f"python{setting.python}", "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        done = _run([*pip, "install", "--quiet", "--editable", f"{ROOT}[dev]", *pins])
        if done.returncode:
            asked = [setting.pins.get(name, "newest") for name in PACKAGES]
            return _line(setting.python, *asked, f"cannot be installed: {_last(done.stderr)}")
        listed = {each["name"]: each["version"] for each in json.loads(_run([*pip, "list", "--format=json"]).stdout)}
        start = time.monotonic()
        done = _run([python, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *tests])
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        print(*failed, sep="\n", end="\n" * bool(failed), file=sys.stderr)
        outcome = re.sub(r" in [\d.]+s.*", f" in {time.monotonic() - start:.0f} s", _last(done.stdout))
        return _line(setting.python, *(listed[name] for name in PACKAGES), outcome)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["nothing was said"])[-1].strip("= ")


def _line(*fields: str) -> str:
    return f"| {' | '.join(fields)} |\n"


def main(pythons: list[str]) -> None:
    """Write the page; every row is printed as soon as it is known."""
    rows = [row for row in _kept() if not row.startswith(tuple(f"| {python} |" for python in pythons))]
    for setting in settings(pythons):
        rows.append(row(setting))
        print(rows[-1], end="", file=sys.stderr, flush=True)
        PAGE.write_text(HEAD + "".join(sorted(rows)))


def _kept() -> list[str]:
    """The rows of the page as it is."""
    lines = PAGE.read_text().splitlines(keepends=True) if PAGE.exists() else []
    return [line for line in lines if line.startswith(tuple(f"| {python} |" for python in PYTHONS))]


if __name__ == "__main__":
    main(sys.argv[1:] or list(PYTHONS))
