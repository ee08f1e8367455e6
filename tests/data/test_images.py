"""Folders of images: captions and labels, sizes, colours, and what is no image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from surgery.data import Data, Images, Picture, Pictures, read_images
from surgery.data.buckets import LARGEST_ASPECT, bucket_sizes, nearest
from surgery.data.pixels import pixels_of
from surgery.errors import ConfigError, RecipeError
from surgery.store import Skipped
from tests.data.draw import colour, halves, write

OWN = (16, 16)
RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]


def read(folder: Path, **options: int) -> Pictures:
    return read_images(Images(folder=str(folder), **options), OWN)


def read_all(folder: Path) -> tuple[list[Picture], list[str]]:
    pictures, found, skipped = read(folder), [], []
    for number in range(len(pictures)):
        try:
            found.append(pictures[number])
        except Skipped as reason:
            skipped.append(str(reason))
    return found, skipped


def refusal(folder: Path) -> str:
    with pytest.raises(RecipeError) as raised:
        read(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@given(side=st.integers(1, 20), step=st.integers(1, 64))
def test_buckets_have_equal_area_and_sides_that_are_multiples(side: int, step: int) -> None:
    sizes, area = bucket_sizes(side * step, step), (side * step) ** 2
    assert (side * step, side * step) in sizes
    for height, width in sizes:
        assert height % step == width % step == 0
        assert abs(height * width - area) <= step / 2 * max(height, width)
        assert max(height, width) <= LARGEST_ASPECT * min(height, width)
        assert (width, height) in sizes


def test_the_buckets_of_1024() -> None:
    assert {(1152, 896), (1216, 832), (1344, 768)} <= set(bucket_sizes(1024, 64))  # of Stable Diffusion XL


@given(height=st.integers(1, 500), width=st.integers(1, 500), step=st.sampled_from([4, 8]))
def test_an_image_gets_the_size_that_fits_best(height: int, width: int, step: int) -> None:
    sizes = bucket_sizes(32, step)
    chosen = nearest(sizes, (height, width))
    kept = {size: min(height / size[0], width / size[1]) ** 2 * size[0] * size[1] for size in sizes}
    assert kept[chosen] >= max(kept.values()) * (1 - 1e-9)
    assert pixels_of(Image.new("L", (width, height)), chosen).shape == (3, *chosen)


@given(st.sampled_from([(16, 16), (8, 24), (40, 10)]), st.sampled_from([(16, 16), (8, 32), (32, 8)]))
def test_the_centre_is_kept(size: tuple[int, int], to: tuple[int, int]) -> None:
    pixels = pixels_of(halves(*size), to)
    assert torch.equal(pixels[[0, 1, 2]], pixels[[2, 1, 0]].flip(-1))
    assert pixels[0, :, 0].gt(0.9).all()
    assert pixels[2, :, 0].lt(-0.9).all()


def test_pixels_go_from_minus_one_to_one() -> None:
    assert pixels_of(Image.new("L", (2, 2), 255), (2, 2)).unique().tolist() == [1]
    assert pixels_of(Image.new("1", (2, 2), 0), (2, 2)).unique().tolist() == [-1]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    image = halves(16, 16, (255, 0, 0, 0), (0, 0, 0, 255), "RGBA").convert(mode)
    image.save(tmp_path / "a.png")
    pixels = read(tmp_path)[0].pixels
    assert (colour(pixels, 0.1), colour(pixels, 0.9)) == (WHITE, [0, 0, 0])


def test_sixteen_bits_of_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 128 * 256 + 7, np.uint16)).save(tmp_path / "a.png")
    assert colour(read(tmp_path)[0].pixels) == [128, 128, 128]


def test_thirty_two_bits_are_skipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 0.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(Skipped, match=r"a\.tiff: cannot be read as an image \(it has 32 bits a pixel"):
        read(tmp_path)[0]


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    halves(16, 32).save(tmp_path / "a.png", exif=exif)
    pixels = read(tmp_path, size=32, step=8)[0].pixels
    assert pixels.shape[1] > pixels.shape[2]
    assert (colour(pixels, y=0.1), colour(pixels, y=0.9)) == (RED, BLUE)


def test_without_a_size_images_get_that_of_the_pipeline(tmp_path: Path) -> None:
    halves(10, 50).save(tmp_path / "a.png")
    assert read(tmp_path)[0].pixels.shape == (3, *OWN)


def test_captions_in_text_files(tmp_path: Path) -> None:
    found, _ = read_all(write(tmp_path, "b.png", "a.jpg", text="this is"))
    assert [(p.name, p.text, p.label) for p in found] == [("a.jpg", "this is a", None), ("b.png", "this is b", None)]


def test_captions_in_metadata(tmp_path: Path) -> None:
    write(tmp_path, "b.png", "deep/a.png", "unlisted.png")
    lines = [{"file_name": "deep/a.png", "text": "é", "more": 1}, {"file_name": "b.png", "text": ""}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert [(p.name, p.text) for p in read_all(tmp_path)[0]] == [("a.png", "é"), ("b.png", "")]


def test_labels_by_folder(tmp_path: Path) -> None:
    found, _ = read_all(write(tmp_path, "dog/a.png", "cat/b.png", "cat/a.png", ".hidden/a.png"))
    assert [(p.name, p.text, p.label) for p in found] == [("a.png", None, 0), ("b.png", None, 0), ("a.png", None, 1)]


def test_images_without_captions(tmp_path: Path) -> None:
    assert read_all(write(tmp_path, "a.png"))[0][0].text is None


def test_what_is_no_image_is_skipped_and_named(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "truncated.png", text="a")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    (tmp_path / "empty.jpg").touch()
    found, skipped = read_all(tmp_path)
    assert [p.name for p in found] == ["a.png"]
    assert [line.removeprefix(f"{tmp_path}/").split(" (")[0] for line in skipped] == [
        "empty.jpg: is no image", "notes.pdf: is no image", "truncated.png: cannot be read as an image",
    ]  # fmt: skip


def test_no_image_at_all(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: holds no image; check the path given as `data`"
    (tmp_path / "notes.pdf").touch()
    assert "holds no image; 1 there are something else, such as notes.pdf;" in refusal(tmp_path)
    assert "is no folder" in refusal(tmp_path / "missing")


def test_a_missing_caption_is_named(tmp_path: Path) -> None:
    write(write(tmp_path, "a.png", text="a"), "b.png")
    assert refusal(tmp_path) == (f"{tmp_path}/b.png: has no b.txt, as others have; write one, or remove the picture")


def test_images_beside_folders_of_images(tmp_path: Path) -> None:
    assert "holds a.png beside folders" in refusal(write(tmp_path, "a.png", "cat/b.png"))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "metadata.jsonl:2: must be like"),
        ('{"file_name": "a.png"}', "metadata.jsonl:2: must be like"),
        ('{"file_name": 3, "text": "a"}', "metadata.jsonl:2: must be like"),
        ('{"file_name": "a.png", "text": 3}', "metadata.jsonl:2: 'text' must be text"),
        ('{"file_name": "b.png", "text": "b"}', "metadata.jsonl:2: there is no b.png"),
    ],
)
def test_wrong_metadata(line: str, what: str, tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": "a"}}\n{line}\n')
    assert what in refusal(tmp_path)


def test_a_caption_that_is_no_text(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    assert "a.txt: cannot be read as UTF-8 text" in refusal(tmp_path)


def test_any_change_is_another_identity(tmp_path: Path) -> None:
    before = read(write(tmp_path, "a.png", "b.png", text="x")).identity()
    assert read(tmp_path).identity() == before
    (tmp_path / "a.txt").write_text("y")
    captioned = read(tmp_path).identity()
    assert (captioned["images"], captioned["captions"] != before["captions"]) == (before["images"], True)
    halves(16, 16, "green").save(tmp_path / "a.png")
    changed = read(tmp_path).identity()
    assert (changed["images"] != before["images"], changed["captions"]) == (True, captioned["captions"])
    for name in ("b.png", "b.txt"):
        (tmp_path / name).rename(tmp_path / name.replace("b", "c"))
    assert read(tmp_path).identity()["images"] != changed["images"]


def test_as_data() -> None:
    images = Images(folder="f", size=256, step=32)
    assert Data.from_data(images.model_dump(mode="json")) == images
    with pytest.raises(ConfigError, match=r"Images.step: must divide size=100, got 64"):
        Images(folder="f", size=100)
