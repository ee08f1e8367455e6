"""Latents in files are a source of samples, a row each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from surgery.data import Data, LatentRows, Latents, read_latents
from surgery.errors import RecipeError
from surgery.store import fill
from tests.store.fake import same


def tensors(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, 1, 4, 4, generator=generator).bfloat16()
    return {"latents": latents, "class_labels": torch.arange(count), "mask": torch.rand(count, 3) > 0.5}


def read(path: Path) -> LatentRows:
    return read_latents(Latents(path=str(path)))


def test_the_rows_of_shards_become_a_store(tmp_path: Path) -> None:
    shards = [tensors(3), tensors(2, seed=1)]
    for number, shard in enumerate(shards):
        save_file(shard, tmp_path / f"{number}.safetensors")
    source = read(tmp_path)
    store = fill(tmp_path / "store", source.identity(), source)
    rows = [
        {name: values[row] for name, values in shard.items()} for shard in shards for row in range(len(shard["mask"]))
    ]
    assert [len(source), len(store)] == [5, 5]
    for number, row in enumerate(rows):
        assert same({"latents": store[number].latents, **store[number].conditions}, row)


def test_one_file(tmp_path: Path) -> None:
    save_file(tensors(3), tmp_path / "a.safetensors")
    before = read(tmp_path / "a.safetensors").identity()
    save_file(tensors(3, seed=1), tmp_path / "a.safetensors")
    assert read(tmp_path / "a.safetensors").identity() != before


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"x": torch.zeros(2)}, r"has no tensor 'latents' \(found: x\)"),
        ({"latents": torch.zeros(2)}, r"latents have shape \(2,\): expected \(N, \.\.\.\) with N > 0"),
        ({"latents": torch.zeros(0, 3)}, r"latents have shape \(0, 3\)"),
        ({"latents": torch.zeros(2, 3), "x": torch.zeros(3)}, r"condition 'x' has shape \(3,\): expected 2 rows"),
        ({"latents": torch.zeros(2, 3), "x": torch.zeros(())}, r"condition 'x' has shape \(\)"),
    ],
)
def test_other_tensors_are_refused(content: dict[str, Tensor], what: str, tmp_path: Path) -> None:
    save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(RecipeError, match=rf"a\.safetensors.* {what}"):
        read(tmp_path / "a.safetensors")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"holds no \.safetensors file"):
        read(tmp_path)
    with pytest.raises(RecipeError, match=r"a\.safetensors does not exist"):
        read(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RecipeError, match=r"a\.safetensors cannot be read"):
        read(tmp_path / "a.safetensors")


def test_as_data() -> None:
    latents = Latents(path="a.safetensors")
    assert Data.from_data(latents.model_dump(mode="json")) == latents
