"""What `surgery diff` says of two models."""

from __future__ import annotations

import json

import pytest

import surgery
from surgery.cli import main
from surgery.graph.show.diff import Flow, Part, diff
from surgery.models import load_skeleton
from surgery.models.inputs import example_inputs
from surgery.operators import HyenaX
from surgery.rewriting import indices
from surgery.rules import drop_blocks, parallel_pairs, replace_attention

RULES = [
    replace_attention(HyenaX(kernel=4), layers=indices(0)),
    parallel_pairs(layers=indices(2)),
    drop_blocks(layers=indices(6)),
]


@pytest.fixture(scope="module")
def teacher() -> surgery.ModelGraph:
    model = load_skeleton("digits-dit")
    return surgery.trace(model, example_inputs(model))


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    surgery.save(surgery.rewrite(teacher, RULES), folder)
    return folder


def test_a_model_does_not_differ_from_itself(teacher):
    assert diff(teacher, teacher).is_empty


def test_every_kind_of_difference(teacher):
    after = surgery.trace(surgery.rewrite(teacher, RULES), example_inputs(teacher.model))
    found = diff(teacher, after)
    assert [part.path for part in found.removed] == ["transformer_blocks.6"]
    assert found.added == [Part("transformer_blocks_2_join", "ConcatProjectJoiner", 2 * 96 * 96 + 96)]
    assert [(old.path, old.module_class, new.module_class) for old, new in found.changed] == [
        ("transformer_blocks.0.attn1", "Attention", "HyenaXMixer")
    ]
    reads = {flow.call: flow.after[0] for flow in found.flow}
    assert reads == {
        "transformer_blocks.3": "transformer_blocks.1",
        "transformer_blocks.4": "transformer_blocks_2_join",
        "transformer_blocks.7": "transformer_blocks.5",
    }
    first = found.flow[0]
    assert first == Flow("", "transformer_blocks.3", ("transformer_blocks.2", *first.before[1:]), first.after)
    assert found.params == (teacher.root.params, after.root.params)
    assert found.flops == (teacher.flops, after.flops)
    back = diff(after, teacher)
    assert [part.path for part in back.added] == ["transformer_blocks.6"]
    assert [part.path for part in back.removed] == ["transformer_blocks_2_join"]


def test_the_command(student, capsys, tmp_path):
    assert main(["diff", "digits-dit", str(student), "--json", "--svg", str(tmp_path / "diff.svg")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"removed", "added", "changed", "flow", "params", "flops"}
    drawn = (tmp_path / "diff.svg").read_text()
    assert drawn.count('class="s-new-block"') == 4  # three blocks that read otherwise, and one that is gone
    assert "HyenaX" in drawn
    assert main(["diff", "digits-dit", str(student)]) == 0
    shown = capsys.readouterr().out
    assert "transformer_blocks_2_join" in shown
    assert main(["diff", "digits-dit", "digits-dit"]) == 0
    assert "have the same architecture" in capsys.readouterr().out
    assert main(["diff", "digits-dit", str(tmp_path / "nowhere")]) == 2
