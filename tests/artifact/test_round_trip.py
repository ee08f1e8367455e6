"""An artifact gives the student back bit for bit, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import surgery
from surgery.artifact.description import signed
from surgery.errors import ArtifactError, RewriteError
from surgery.operators import FullAttention, HyenaX, SlidingWindow
from surgery.rewriting import indices
from surgery.rules import replace_attention
from tests.nightly import examples
from tests.tracing.test_exact import assert_same, dit, dit_inputs

operators = st.one_of(
    st.builds(HyenaX, kernel=st.integers(1, 9), causal=st.booleans()),
    st.builds(SlidingWindow, window=st.integers(0, 9), causal=st.booleans()),
    st.just(FullAttention()),
)


def student(operator=None, layers=(1,)):
    rule = replace_attention(operator or HyenaX(), layers=indices(*layers), inherit="random")
    return surgery.rewrite(dit(out_channels=4), [rule], dit_inputs(1, 8))


@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operators, st.lists(st.integers(0, 2), min_size=1, unique=True), st.sampled_from([torch.float32, torch.bfloat16])
)
def test_round_trip(tmp_path: Path, operator, layers, dtype):
    before = student(operator, layers).to(dtype)
    after = surgery.load(surgery.save(before, tmp_path / "a"))
    assert isinstance(after, type(dit()))
    assert_same(dict(before.state_dict()), dict(after.state_dict()))
    call = dit_inputs(2, 12)
    call["hidden_states"] = call["hidden_states"].to(dtype)
    assert_same(before(**call), after(**call))
    again = surgery.load(surgery.save(after, tmp_path / "b"))
    assert_same(dict(before.state_dict()), dict(again.state_dict()))


@examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["model.safetensors", "surgery.json"]))
def test_truncated_or_altered_files_are_refused(tmp_path: Path, data, name):
    folder = surgery.save(student(), tmp_path / "a")
    content = (folder / name).read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    (folder / name).write_bytes(content[:cut])
    with pytest.raises(ArtifactError, match="truncated or altered"):
        surgery.load(folder)
    if name == "model.safetensors":
        (folder / name).write_bytes(content[:cut] + bytes([content[cut] ^ 1]) + content[cut + 1 :])
        with pytest.raises(ArtifactError, match="truncated or altered"):
            surgery.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_class": "AutoencoderTiny2"}, "is not a model class of diffusers"),
        ({"model_class": "os"}, "is not a model class of diffusers"),
        ({"commits": [[{"path": "x"}]]}, "truncated or altered"),
        ({"surprise": 1}, "truncated or altered"),
        ({"commits": []}, "does not describe a model that can be rebuilt"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path: Path, change, words):
    folder = surgery.save(student(), tmp_path)
    description = json.loads((folder / "surgery.json").read_text())
    del description["checksum"]
    (folder / "surgery.json").write_bytes(signed(description | change))
    with pytest.raises(ArtifactError, match=words) as caught:
        surgery.load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_an_artifact_is_refused(tmp_path: Path):
    with pytest.raises(
        ArtifactError, match=r"surgery\.json: cannot be read .*; name a folder written by surgery\.save"
    ):
        surgery.load(tmp_path)


def test_a_model_that_is_not_of_diffusers_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="Linear is not a model class of diffusers"):
        surgery.save(torch.nn.Linear(2, 2), tmp_path)
    assert not list(tmp_path.iterdir())


def test_undo_of_a_loaded_student_says_what_to_do(tmp_path: Path):
    with pytest.raises(RewriteError, match="load the base model instead"):
        surgery.undo(surgery.load(surgery.save(student(), tmp_path)))


def test_a_loaded_student_runs_in_the_stock_pipeline(tmp_path: Path):
    loaded = surgery.load(surgery.save(student(), tmp_path))
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)
    pipeline = DiTPipeline(transformer=loaded, vae=vae, scheduler=DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline([3, 7], guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    assert images.shape[0] == 2
    assert (images >= 0).all()
