"""From folders of images and videos, and files of latents, to samples that a pipeline's denoiser is fed with."""

from __future__ import annotations

import io
import json
import shutil
import weakref
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery.cli import main
from surgery.data import Images, Latents, Videos, read_images, read_latents
from surgery.errors import ArtifactError, RecipeError
from surgery.pipelines import Wiring, load
from surgery.pipelines.encode import encoder_of
from surgery.pipelines.load import load_pipeline
from surgery.pipelines.sources import LatentSamples, condition_of, wiring_of
from surgery.progress import SilentProgress
from surgery.recipe import Recipe
from surgery.run.cache import cache
from surgery.run.subject import load_subject
from surgery.store import Store
from tests.data.draw import write
from tests.run.twins import built, call_of, images, of_pictures, recipe, saved, videos

CALL = {"use_resolution_binning": False, "max_sequence_length": 16, "clean_caption": False}
TEXT, IMAGE = {"max_sequence_length": 16}, {"height": 16, "width": 16}
PIXART, DIT, WAN = "PixArtSigmaPipeline", "DiTPipeline", "WanPipeline"


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("pixart"), PIXART)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("flux"), "FluxPipeline")


def sized(folder: Path) -> Images:
    return Images(folder=str(folder), size=32, step=8, call=CALL)


@pytest.fixture(scope="module")
def made(pixart: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, str]:
    """The folder of a run whose data were made by the command, its recipe, and what the command said."""
    folder = tmp_path_factory.mktemp("made")
    asked = recipe(pixart, sized(images(folder / "images")), evaluate=None)
    file, said = folder / "recipe.py", io.StringIO()
    file.write_text(
        f"from surgery.recipe import Recipe\nrecipe = Recipe.model_validate({asked.model_dump(mode='json')})"
    )
    with redirect_stdout(said), redirect_stderr(said):
        assert main(["cache", str(file), "--out", str(folder / "run")]) == 0
    return folder / "run", asked, said.getvalue()


def test_the_command_says_what_it_will_take_and_what_it_skipped(made):
    run, _, said = made
    assert said.endswith(f"{run / 'data'}\n")
    assert "cache: 24 samples to make, about" in said
    assert "cache: 1 of 25 skipped:" in said
    assert "no.png: is no image" in said


def test_a_run_in_that_folder_trains_on_them_and_loads_nothing_else(made, pixart, tmp_path, monkeypatch):
    run, asked, _ = made
    shutil.copytree(run, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(load, "load_pipeline", lambda *_, **__: pytest.fail("all samples are there"))
        surgery.apply(asked, tmp_path / "run")
    losses = json.loads((tmp_path / "run" / "losses.json").read_text())
    assert {each["stage"] for each in losses} == {"distil", "finetune"}
    assert losses[-1]["validation"] is not None
    pipeline = load_pipeline(pixart)
    pipeline.transformer = surgery.load(tmp_path / "run" / "model")
    assert len(pipeline(**built(PIXART)[1], num_inference_steps=2).images) == 1


def test_each_sample_is_its_picture_encoded_with_its_own_caption(made, pixart):
    run, asked, _ = made
    samples, wiring = Store(run / "data" / "samples"), Wiring.load(run / "data" / "wirings" / "0")
    assert set(samples.shapes) == {(4, 32, 32), (4, 24, 48)}
    square, wide, other = samples[0], samples[13], samples[8]
    assert wiring_of(square.conditions) == wiring_of(other.conditions) != wiring_of(wide.conditions)
    text, same, different = (
        condition_of(sample, wiring.conditional).arguments["encoder_hidden_states"] for sample in (square, other, wide)
    )
    assert torch.equal(text, same)
    assert not torch.equal(text, different)
    pipeline = load_pipeline(pixart)
    with torch.no_grad():
        given = pipeline.encode_prompt("1 cats", do_classifier_free_guidance=False, max_sequence_length=16)[0]
    torch.testing.assert_close(different, given)
    encoder = encoder_of(pipeline, built(PIXART)[1] | {"height": 32, "width": 32}, (4, 32, 32))
    picture = read_images(asked.data, (0, 0))[0].pixels
    assert torch.equal(square.latents, encoder.encode(pipeline, picture[None])[0])


def test_what_made_the_samples_is_freed_and_the_model_is_not(pixart, tmp_path):
    subject = load_subject(str(pixart), of_pictures(tmp_path / "images", PIXART), 0)
    held = subject.data.feed.samples._holder
    parts = {name: weakref.ref(getattr(held.pipeline, name)) for name in ("text_encoder", "vae", "transformer")}
    subject.data.stored(tmp_path / "data", SilentProgress())
    assert [name for name, part in parts.items() if part() is not None] == ["transformer"]
    assert held.pipeline.transformer is subject.teacher.model  # loaded again around it


def test_folders_of_classes_give_labels(tmp_path):
    folder = write(tmp_path / "classes", *(f"{name}/{n}.png" for name in ("cats", "dogs") for n in range(2)))
    data = load_subject(str(saved(tmp_path / "dit", DIT)), Images(folder=str(folder)), 0).data
    conditional = data.wiring.conditional
    samples = [data.feed.samples[number] for number in range(4)]
    assert [int(condition_of(s, conditional).arguments["class_labels"]) for s in samples] == [0, 0, 1, 1]
    unconditional = condition_of(samples[3], data.wiring.unconditional).arguments["class_labels"]
    assert int(unconditional) == 1000


def test_videos_are_encoded(tmp_path):
    pipeline = saved(tmp_path / "wan", WAN)
    data = load_subject(str(pipeline), of_pictures(tmp_path / "videos", WAN), 0).data
    assert tuple(data.feed.samples[0].latents.shape) == data.wiring.shape == (4, 3, 2, 2)
    few = Videos(folder=str(tmp_path / "videos"), frames=5, fps=20, call=call_of(WAN))
    with pytest.raises(RecipeError, match="WanPipeline makes 9 frames, and data of 5 are given"):
        load_subject(str(pipeline), few, 0)


def test_latents_in_files_keep_their_conditions(tmp_path):
    pipeline = saved(tmp_path / "dit", DIT)
    tensors = {"latents": torch.randn(20, 4, 8, 8), "class_labels": torch.arange(20)}
    save_file(tensors, tmp_path / "latents.safetensors")
    data = load_subject(str(pipeline), Latents(path=str(tmp_path)), 0).data
    sample = data.feed.samples[7]
    assert torch.equal(sample.latents, tensors["latents"][7])
    assert condition_of(sample, data.wiring.conditional).arguments["class_labels"].tolist() == [7]
    for changed, words in (
        ({"latents": torch.zeros(20, 4, 8, 9)}, r"shape \(4, 8, 9\), and those of DiTPipeline are \(4, 8, 8\)"),
        ({"caption": torch.zeros(20)}, "'caption' is no condition of DiTPipeline's denoiser, which takes class_labels"),
        (
            {"class_labels": torch.zeros(20, 2)},
            r"'class_labels' has shape \(2,\) in a row, the pipeline's own has \(\)",
        ),
    ):
        save_file({**tensors, **changed}, tmp_path / "latents.safetensors")
        with pytest.raises(RecipeError, match=words):
            LatentSamples(read_latents(Latents(path=str(tmp_path))), data.wiring)
    tensors["class_labels"][3] = 5000
    save_file(tensors, tmp_path / "latents.safetensors")
    with pytest.raises(RecipeError, match="DiTTransformer2DModel does not run with class_labels=5000: index out of"):
        load_subject(str(pipeline), Latents(path=str(tmp_path)), 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused_by_name(tmp_path, value):
    rows = torch.randn(20, 4, 8, 8)
    rows[13, 0, 3, 3] = value
    save_file({"latents": torch.randn(20, 4, 8, 8)}, tmp_path / "a.safetensors")
    save_file({"latents": rows}, tmp_path / "b.safetensors")
    found = read_latents(Latents(path=str(tmp_path)))
    assert found[32].latents.isfinite().all()
    with pytest.raises(RecipeError, match=r"data: row 13 of .*b\.safetensors: its latents are not finite"):
        found[33]


def test_pictures_whose_latents_are_not_finite_are_refused_by_name(flux, tmp_path, monkeypatch):
    data = load_subject(str(flux), Images(folder=str(images(tmp_path / "few", 3)), size=16, step=16, call=TEXT), 0).data
    encode = type(encoder := data.feed.samples._sized[0][2]).encode
    monkeypatch.setattr(type(encoder), "encode", lambda *given: encode(*given) / 0)
    with pytest.raises(RecipeError, match=r"data: \w+\.png: its latents are not finite"):
        data.stored(tmp_path / "made", SilentProgress())


def edit(path: Path, old: str, new: str) -> str:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return text


def refused(asked: Recipe, run: Path, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        surgery.apply(asked, run)


def test_what_has_changed_since_is_named(made, pixart, monkeypatch):
    run, asked, _ = made
    folder = Path(asked.data.folder)
    for path, old, new, name in (
        (folder / "03.txt", "3 cats", "3 dogs", "captions"),
        (pixart / "scheduler" / "scheduler_config.json", "0.02,", "0.03,", "scheduler"),
        (folder / "no.png", "nothing", "something", "images"),
        (pixart / "transformer" / "config.json", "{", "{ ", "model"),
    ):
        before = edit(path, old, new)
        refused(asked, run, rf"it differs in {name};")
        path.write_text(before)
    monkeypatch.setattr("surgery.run.subject.version", lambda _: "0.1")
    refused(asked, run, r"it differs in diffusers \(.* there, 0\.1 here\)")


def test_damage_is_named_and_a_run_of_other_files_kept_apart(made, tmp_path):
    run, asked, _ = made
    shard = next((run / "data" / "samples").glob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    refused(asked, run, f"{shard.name}: truncated or altered")
    shard.write_bytes(content)
    for name, words in (("feed.json", "cannot be read .*; delete"), ("wirings/0/wiring.json", "anew: delete")):
        path = run / "data" / name
        text = edit(path, "{", "")
        with pytest.raises(surgery.errors.WiringError, match=words):
            surgery.apply(asked, run)
        path.write_text(text)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RecipeError, match="holds other files"):
        cache(asked, tmp_path, "cpu", SilentProgress())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: Images(folder=str(write(d, "cats/a.png")), call=TEXT), "has a folder for each class, and .* texts"),
        (lambda d: Images(folder=str(images(d, 3)), call={"hight": 1}), "has no keyword 'hight'"),
        (lambda d: Images(folder=str(images(d, 3)), size=15, step=15, call=TEXT), "15x15 is asked for; choose another"),
        (
            lambda d: Videos(folder=str(videos(d, 2)), frames=9, fps=20, call=TEXT | IMAGE),
            "makes 1 frames, and data of 9",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(flux, tmp_path, make, words):
    with pytest.raises(RecipeError, match=words):
        load_subject(str(flux), make(tmp_path / "data"), 0)
