"""What is saved can be read back, and what could not be is refused by name; an older artifact stays whole."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

import surgery
from surgery.artifact import weights
from surgery.artifact.description import read_description
from surgery.errors import ArtifactError
from surgery.models import load_pretrained
from surgery.rules import mlp_ratio
from tests.artifact.test_round_trip import student
from tests.tracing.test_exact import assert_same, dit_inputs


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.register_buffer("table", torch.arange(width) / width, persistent=False)

    def forward(self, x):
        return x + self.mlp(self.norm(x)) * self.table


class Net(nn.Module):
    def __init__(self, width: int = 8, eps: float = 1e-5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        for block in self.blocks:
            block.norm.eps = eps

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


CALL = {"x": torch.linspace(-1, 1, 80).reshape(2, 5, 8)}


def own_student() -> nn.Module:
    torch.manual_seed(0)
    return surgery.rewrite(Net().eval(), [mlp_ratio(3)], CALL)


def adapter(model):
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), model)


def exchanged(model):
    model.proj_out_2 = nn.Sequential(model.proj_out_2, nn.Linear(16, 16))


def changed_attribute(model):
    model.transformer_blocks[0].norm3.eps = 1.0


def half_quantised(model):
    model.transformer_blocks[2].ff = torch.ao.quantization.quantize_dynamic(model.transformer_blocks[2].ff, {nn.Linear})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (adapter, "attn1.to_q"),
        (exchanged, "proj_out_2"),
        (changed_attribute, r"transformer_blocks\.0\.norm3: eps is 1\.0 and not 1e-0"),
        (half_quantised, r"transformer_blocks\.2\.ff"),
        (lambda model: model.to("meta"), "is on the meta device"),
        (lambda model: setattr(model, "proj_out_1", nn.Linear(16, 16)), "proj_out_1"),
    ],
)
def test_what_could_not_be_read_back_is_refused_by_name(tmp_path: Path, change, words):
    model = student()
    change(model)
    with pytest.raises(ArtifactError, match=words) as caught:
        surgery.save(model, tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def more_of(path: str, name: str, kind: str):
    def register(model):
        module, value = model.get_submodule(path), torch.ones(3)
        if kind == "parameter":
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value, persistent=kind == "buffer")

    return register


def without_bias(model):
    model.transformer_blocks[0].ff.net[2].bias = None


def whole_numbers(model):
    model.transformer_blocks[0].ff.net[2].weight = nn.Parameter(
        model.transformer_blocks[0].ff.net[2].weight.to(torch.int8), requires_grad=False
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(
            (more_of(path, "more", kind), f"{path}.more".lstrip(".").replace(".", r"\."))
            for path in ("", "transformer_blocks.0", "transformer_blocks.1.attn1")
            for kind in ("parameter", "buffer", "table")
        ),
        (without_bias, r"transformer_blocks\.0\.ff\.net\.2\.bias"),
        (whole_numbers, r"transformer_blocks\.0\.ff\.net\.2\.weight has the dtype torch.int8"),
        (lambda model: prune.l1_unstructured(model.transformer_blocks[0].ff.net[2], "weight", 0.5), "ff.net.2"),
        (lambda model: model.transformer_blocks[0].register_parameter("none", None), None),
    ],
)
def test_other_tensors_than_those_of_a_fresh_student_are_refused_by_name(tmp_path: Path, change, words):
    surgery.save(student(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = student()
    change(model)
    if words is None:
        surgery.load(surgery.save(model, tmp_path))
        return
    with pytest.raises(ArtifactError, match=words) as caught:
        surgery.save(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("folder", [None, 3, b"a", ["a"], "a\0b", ""], ids=repr)
def test_what_is_no_path_is_refused(folder):
    for action in (lambda: surgery.save(student(), folder), lambda: surgery.load(folder)):
        with pytest.raises(ArtifactError, match=r"is no path; name a folder") as caught:
            action()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int8, torch.bool, torch.complex64, float], ids=str)
def test_a_dtype_that_weights_cannot_have_is_not_blamed_on_the_folder(tmp_path: Path, dtype):
    with pytest.raises(ArtifactError, match=r"^dtype=.* is no floating-point dtype of torch; give "):
        surgery.load(surgery.save(student(), tmp_path), dtype=dtype)


def test_tables_that_were_changed_or_cast_are_saved_too(tmp_path: Path):
    model = student().to(torch.bfloat16)
    model.pos_embed.pos_embed += 1
    loaded = surgery.load(surgery.save(model, tmp_path))
    assert_same(dict(model.named_buffers()), dict(loaded.named_buffers()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_are_loaded_in_the_dtype_asked_for(tmp_path: Path, dtype):
    before = student()
    after = surgery.load(surgery.save(before, tmp_path), dtype=dtype)
    assert_same(dict(before.to(dtype).state_dict()), dict(after.state_dict()))


def test_a_device_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="the device 'foo' cannot be used"):
        surgery.load(surgery.save(student(), tmp_path), device="foo")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(sorted(weights.DTYPES, key=str))), min_size=1), st.data())
def test_weights_are_what_safetensors_reads(tmp_path: Path, sizes, data):
    torch.manual_seed(0)
    tensors = {f"t{i}": torch.randint(0, 2, (n, 2)).to(dtype) for i, (n, dtype) in enumerate(sizes)}
    files = weights.write_weights(tmp_path, tensors, largest=data.draw(st.integers(1, 400)))
    weights.settle(tmp_path, files)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(file.name for file in files)
    read = {name: tensor for file in files for name, tensor in load_file(tmp_path / file.name).items()}
    assert read.keys() == tensors.keys()
    assert all(t.dtype == tensors[n].dtype and bytes_of(t) == bytes_of(tensors[n]) for n, t in read.items())


def bytes_of(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else tensor.shape


@pytest.mark.parametrize("moment", ["write_weights", "write_atomically", "settle"])
def test_an_older_artifact_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch, moment):
    old, new = student(layers=(0,)), student(layers=(1, 2))
    surgery.save(old, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"surgery.artifact.saving.{moment}", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            surgery.save(new, tmp_path)
    expected = new if moment == "settle" else old
    assert_same(dict(expected.state_dict()), dict(surgery.load(tmp_path).state_dict()))
    surgery.save(new, tmp_path)
    assert_same(dict(new.state_dict()), dict(surgery.load(tmp_path).state_dict()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "surgery.json"]


@pytest.mark.parametrize("training", [False, True])
def test_a_student_of_the_users_own_class_is_loaded_onto_a_fresh_model(tmp_path: Path, training):
    before, base = own_student().train(training), Net()
    weights_before = copy.deepcopy(base.state_dict())
    after = surgery.load(surgery.save(before, tmp_path), base=base)
    assert_same(before.eval()(**CALL), after(**CALL))
    assert_same(dict(weights_before), dict(base.state_dict()))


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (lambda: None, r"Net is no model of diffusers; give a fresh one: surgery\.load\(folder, base=Net"),
        (lambda: Net(width=4), r"blocks\.0: table is \(4,\) and not \(8,\)"),
        (lambda: Net(eps=0.1), r"blocks\.0\.norm: eps is 0\.1 and not 1e-05"),
        (lambda: nn.Linear(2, 2), "base is a Linear, and the student was made from a Net"),
        (own_student, "base was rewritten itself"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(tmp_path: Path, base, words):
    with pytest.raises(ArtifactError, match=words):
        surgery.load(surgery.save(own_student(), tmp_path), base=base())


def test_save_pretrained_keeps_the_edits(tmp_path: Path):
    model = student()
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)
    DiTPipeline(transformer=copy.deepcopy(model), vae=vae, scheduler=DDIMScheduler()).save_pretrained(tmp_path / "all")
    model.save_pretrained(tmp_path / "one")
    call = dit_inputs(1, 8)
    for loaded in (
        surgery.load(tmp_path / "one"),
        surgery.load(tmp_path / "all" / "transformer"),
        load_pretrained(str(tmp_path / "all")).model,
    ):
        assert_same(model(**call), loaded(**call))
    with pytest.raises(ArtifactError, match="takes no variant"):
        model.save_pretrained(tmp_path / "two", variant="fp16")
    surgery.undo(model).save_pretrained(tmp_path / "base")
    assert (tmp_path / "base" / "config.json").is_file()


@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}, {"max_shard_size": "20KB"}], ids=str)
def test_a_student_is_not_saved_beside_another_model(tmp_path: Path, options):
    model, folder = student(), tmp_path / "pipe"
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)
    teacher = surgery.undo(copy.deepcopy(model)).eval()
    DiTPipeline(transformer=teacher, vae=vae, scheduler=DDIMScheduler()).save_pretrained(folder, **options)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.transformer = model
    for save in (pipeline.save_pretrained, lambda path: surgery.save(model, path / "transformer")):
        with pytest.raises(ArtifactError, match=r"transformer: holds another model, .*save the student to another"):
            save(folder)
    assert {path: path.read_bytes() for path in (folder / "transformer").iterdir()}.items() <= before.items()
    loaded, call = DiTPipeline.from_pretrained(folder).transformer.eval(), dit_inputs(1, 8)
    assert_same(teacher(**call), loaded(**call))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model-00001-of-00002.safetensors"])
def test_weights_of_others_are_never_replaced(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"theirs")
    with pytest.raises(ArtifactError, match=f"holds another model, {name}"):
        surgery.save(student(), tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"theirs")]


def test_other_files_are_left_alone(tmp_path: Path):
    notes = ("config.json", "scheduler_config.json", "README.md", "model_index.json", "model.py")
    for name in notes:
        (tmp_path / name).write_text("{}")
    surgery.save(student(), tmp_path)
    surgery.save(student(), tmp_path)
    assert all((tmp_path / name).read_text() == "{}" for name in notes)


def test_an_artifact_of_an_older_layout_says_so(tmp_path: Path):
    (tmp_path / "surgery.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ArtifactError, match="written by an older surgery"):
        read_description(tmp_path)
