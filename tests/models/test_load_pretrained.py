"""Models are found by name, folder or hub id; what cannot be used is named in one line."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)

from surgery.errors import ArtifactError, RecipeError, SurgeryError
from surgery.models import load_pretrained


def tiny() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=1, sample_size=4,
        num_embeds_ada_norm=10,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A model folder with its scheduler."""
    tiny().save_pretrained(tmp_path)
    DDPMScheduler(beta_end=0.03).save_pretrained(tmp_path)
    return tmp_path


def same_weights(a, b) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def message(name) -> str:
    with pytest.raises(SurgeryError) as caught:
        load_pretrained(str(name))
    assert "\n" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_the_built_in_model_loads_by_name():
    pretrained = load_pretrained("digits-dit")
    assert type(pretrained.model) is DiTTransformer2DModel
    assert not pretrained.model.training
    assert pretrained.model.config.num_layers == 8
    assert type(pretrained.scheduler) is DDPMScheduler
    assert pretrained.scheduler.config.num_train_timesteps == 1000


def test_a_model_folder_round_trips(folder):
    pretrained = load_pretrained(str(folder))
    assert same_weights(pretrained.model, DiTTransformer2DModel.from_pretrained(folder))
    assert pretrained.scheduler.config.beta_end == 0.03


def test_a_pipeline_folder_round_trips(tmp_path):
    model = tiny()
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    DiTPipeline(transformer=model, vae=vae, scheduler=DDIMScheduler(beta_end=0.01)).save_pretrained(tmp_path)
    pretrained = load_pretrained(str(tmp_path))
    assert same_weights(pretrained.model, model)
    assert type(pretrained.scheduler) is DDIMScheduler
    assert pretrained.scheduler.config.beta_end == 0.01


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler])
def test_no_scheduler_is_taken_for_another(tmp_path, scheduler):
    tiny().save_pretrained(tmp_path)
    scheduler(num_train_timesteps=77).save_pretrained(tmp_path)
    found = load_pretrained(str(tmp_path)).scheduler
    assert type(found) is scheduler
    assert found.config.num_train_timesteps == 77


def test_a_scheduler_that_is_none_of_diffusers_is_refused(folder):
    path = folder / "scheduler_config.json"
    path.write_text(path.read_text().replace("DDPMScheduler", "NoScheduler"))
    assert "the scheduler of model" in message(folder)


def test_a_model_without_scheduler_loads_but_says_so_when_it_is_needed(tmp_path):
    tiny().save_pretrained(tmp_path)
    pretrained = load_pretrained(str(tmp_path))
    with pytest.raises(ArtifactError, match=r"no scheduler_config\.json"):
        _ = pretrained.scheduler


def test_a_misspelt_name_is_corrected(tmp_path):
    assert message("digit-dit") == "RecipeError: unknown model 'digit-dit': did you mean 'digits-dit'?"
    assert "a folder, or the id" in message("unheard-of")
    assert "a folder, or the id" in message(tmp_path / "absent")


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert message(tmp_path).startswith("ArtifactError")
    assert "config.json" in message(tmp_path)


def test_a_config_that_does_not_parse_is_refused(folder):
    (folder / "config.json").write_text("{")
    assert "config" in message(folder)


def test_a_class_that_is_not_a_transformer_is_refused(tmp_path):
    UNet2DModel(block_out_channels=(4,), norm_num_groups=2, down_block_types=("DownBlock2D",),
                up_block_types=("UpBlock2D",)).save_pretrained(tmp_path)  # fmt: skip
    assert "'UNet2DModel'" in message(tmp_path)
    for name in ("NoSuchModel", "torch"):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
        assert f"'{name}'" in message(tmp_path)


def test_weights_that_do_not_fit_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    for change, word in (
        ({"num_layers": 2}, "missing"),
        ({"num_layers": 0}, "unexpected"),
        ({"in_channels": 3}, "cannot"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        assert word in message(folder)


def test_truncated_and_absent_weights_are_refused(folder):
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert message(folder).startswith("ArtifactError")
    weights.unlink()
    assert message(folder).startswith("ArtifactError")


def test_a_hub_id_is_looked_up_in_the_pipeline_and_then_in_the_root(folder, monkeypatch):
    """Stands in for the hub: an id becomes the local folder, which has no transformer/."""
    asked = []

    def redirected(method, monkeypatched):
        def fake(cls, name, **options):
            asked.append((name, options["subfolder"]))
            assert not options["local_files_only"]
            if options["subfolder"] is not None:
                raise OSError("no such file\nand more")
            return method(cls, folder, **options)

        monkeypatch.setattr(*monkeypatched, classmethod(fake))

    for owner, name in (
        (DiTTransformer2DModel, "load_config"),
        (DiTTransformer2DModel, "from_pretrained"),
        (DDPMScheduler, "load_config"),
    ):
        redirected(getattr(owner, name).__func__, (owner, name))
    assert load_pretrained("someone/model").scheduler.config.beta_end == 0.03
    assert asked[:2] == [("someone/model", "transformer"), ("someone/model", None)]


def test_a_hub_without_network_is_one_line(monkeypatch):
    def offline(cls, *args, **options):
        raise OSError("we could not connect.\nCheck your connection")

    monkeypatch.setattr(DiTTransformer2DModel, "load_config", classmethod(offline))
    with pytest.raises(RecipeError, match=r"someone/digits-dit.*\(we could not connect\)") as caught:
        load_pretrained("someone/digits-dit")
    assert "\n" not in str(caught.value)
