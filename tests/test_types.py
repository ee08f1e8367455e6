"""What a type checker says of code that uses the package. It needs no plugin."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[1]

GOOD = """
from typing import Any

import surgery
from surgery.operators import MLP, HyenaX, NeighbourhoodAttention
from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewriting import Call, Pattern, Rewiring, Rule, Site, chain, every, indices, node
from surgery.rules import mlp_ratio, replace_attention
from torch import nn


class Small(nn.Module):
    width: int = 8


class Skip(Rule):
    pattern: Pattern = chain(inner=node("mlp") | node("norm"), sum=node(function="add"))
    depth: int = 1

    def replacement(self, site: Site) -> Rewiring:
        return Rewiring(calls=(Call(name="x", module="inner"),), results={"sum": "x"}, keeps=("inner",))


recipe = Recipe(
    model="digits-dit",
    rules=[replace_attention(HyenaX(kernel=4), layers=every(2) & ~indices(1)), mlp_ratio(3), Skip(depth=2)],
    distil=Distil(steps=3, lr=1e-3),
    finetune=Finetune(steps=3, target="teacher"),
    evaluate=Evaluate(samples=3),
)
inputs: dict[str, Any] = {}
student = surgery.rewrite(Small(), recipe.rules, inputs)
width: int = student.width + surgery.undo(student).width
other: nn.Module = surgery.rewrite(surgery.trace(Small(), inputs), [mlp_ratio(6)])
surgery.save(student, surgery.__version__)
width = surgery.load("student", base=Small(), device="cpu").width
other = surgery.load("student")
print(MLP(ratio=3), NeighbourhoodAttention(window=5, grid=(8, 8)), Skip(layers=every(2)))
"""

# Each line is wrong; what is said of it stands behind.
BAD = """
import surgery
from surgery.operators import HyenaX
from surgery.recipe import Distil, Recipe
from surgery.rules import replace_attention
from torch import nn

Distil(stepz=3)  # Unexpected keyword argument "stepz" for "Distil"; did you mean "steps"?
Distil(steps="three")  # Argument "steps" to "Distil" has incompatible type "str"; expected "int"
Distil().steps = 3  # Property "steps" defined in "Distil" is read-only
HyenaX(kernal=3)  # Unexpected keyword argument "kernal" for "HyenaX"; did you mean "kernel"?
Distil(3)  # Too many positional arguments for "Distil"
Recipe(model="digits-dit")  # Missing named argument "rules" for "Recipe"
Recipe(model="digits-dit", rules=[HyenaX()])  # List item 0 has incompatible type "HyenaX"; expected "Rule"
replace_attention(HyenaX(), layer=3)  # Unexpected keyword argument "layer" for "replace_attention"
surgery.rewrite(nn.Linear(1, 1), ["a"], {})  # List item 0 has incompatible type "str"; expected "Rule"
surgery.undo(nn.Linear(1, 1)).in_features.lower()  # "int" has no attribute "lower"
surgery.undo(3)  # Value of type variable "Model" of "undo" cannot be "int"
surgery.rewritten  # Module has no attribute "rewritten"
"""


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str]]:
    """File, line and text of each error in the two files, with the options of the project, so that its cache serves."""
    folder = tmp_path_factory.mktemp("consumer")
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    command = [sys.executable, "-m", "mypy", str(folder / "good.py"), str(folder / "bad.py")]
    environment = {**os.environ, "MYPYPATH": "."}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    found = re.findall(r"(\w+\.py):(\d+): error: (.*)$", done.stdout, flags=re.MULTILINE)
    return [(file, int(line), text) for file, line, text in found]


def test_right_code_is_right(complaints):
    assert not [each for each in complaints if each[0] == "good.py"]


def test_each_slip_is_an_error_at_its_line(complaints):
    expected = {n: line.split("  # ")[1] for n, line in enumerate(BAD.split("\n"), 1) if "  # " in line}
    said = {number: text for file, number, text in complaints if file == "bad.py"}
    assert said.keys() == expected.keys()
    assert [said[n] for n in said if not said[n].startswith(expected[n])] == []
