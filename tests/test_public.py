"""The public surface: every name is there, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import surgery

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", surgery.__all__)
def test_a_public_name_is_there(name):
    assert callable(getattr(surgery, name))
    assert name in dir(surgery)


def test_any_other_name_is_an_error():
    with pytest.raises(AttributeError, match="'surgery' has no attribute 'rewritten'"):
        surgery.rewritten  # noqa: B018


def test_the_version_is_that_of_the_project():
    assert surgery.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_importing_the_package_and_asking_for_its_version_does_not_import_torch():
    code = "import sys, surgery; surgery.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
