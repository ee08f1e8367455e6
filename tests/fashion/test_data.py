"""Files of format idx are read as they were written, and refused in one line where they are none."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.data.fashion import FashionMNIST, read_fashion, read_idx
from surgery.errors import RecipeError
from surgery.recipe import Recipe


def idx(values: torch.Tensor) -> bytes:
    """The content of an idx file of bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.numpy().tobytes()


def write(folder: Path, pictures: int = 20, *, packed: bool = False) -> Path:
    """A tiny Fashion-MNIST in `folder`."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(pictures)
    for part in ("train", "t10k"):
        images = torch.randint(256, (pictures, 28, 28), generator=generator).byte()
        for name, values in (("images-idx3", images), ("labels-idx1", (torch.arange(pictures) % 10).byte())):
            file = folder / f"{part}-{name}-ubyte{'.gz' * packed}"
            file.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    return folder


@settings(deadline=None)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), packed=st.booleans(), seed=st.integers(0, 99))
def test_what_was_written_is_read(tmp_path_factory, shape, packed, seed):
    values = torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).byte()
    file = tmp_path_factory.mktemp("idx") / ("a.gz" if packed else "a")
    file.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    assert torch.equal(read_idx(file), values)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_gives_pictures_and_labels(tmp_path, packed):
    images, labels = read_fashion(write(tmp_path, packed=packed))
    assert images.shape == (20, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.aminmax() == (-1, 1)
    assert labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"\x1f\x8b", idx(torch.zeros(3).byte())[:-1], b"\0\0\x0d\1" + b"\0" * 8]
)
@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content, name):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=name) as caught:
        read_idx(file)
    assert "\n" not in str(caught.value)


def test_without_data_the_package_is_named(tmp_path):
    with pytest.raises(RecipeError, match="Debian's package dataset-fashion-mnist") as caught:
        read_fashion(tmp_path)
    assert "FashionMNIST(folder=" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_word_is_the_config_with_debians_folder():
    recipe = Recipe(model="fashion-dit", data="fashion-mnist", rules=[])
    assert recipe.data == FashionMNIST()
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
