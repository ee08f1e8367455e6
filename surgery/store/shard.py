"""Shards: safetensors files that hold rows, and which of all rows make up each sample.

A row is a tensor that no earlier shard holds, named by its content. Rows are numbered throughout a store in the order in
which they were added, so that a sample is the number of a skeleton in its shard, and the numbers of its rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from surgery.files import write_atomically
from surgery.raw import raw_bytes
from surgery.store.manifest import ShardFile, altered


@dataclass
class Contents:
    """What is to go into a shard.

    Attributes:
        rows: by content, in the order in which they were added.
        skeletons: of conditions as JSON, each once, with its number.
        samples: for each the numbers of its skeleton, of its latents, and of the rows of its conditions.
        skipped: of the samples that could not be made, which and why.
        sources: how many samples of the source it took, skipped ones included.
        nbytes: of all rows and skeletons.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    skeletons: dict[str, int] = field(default_factory=dict)
    samples: list[list[int]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    sources: int = 0
    nbytes: int = 0

    def add_row(self, content: str, row: Tensor) -> None:
        """Take a row, as it is now."""
        self.rows[content] = row.detach().cpu().contiguous().clone()
        self.nbytes += row.nbytes

    def number(self, skeleton: str) -> int:
        """The number of a skeleton, which is taken if it is new."""
        if skeleton not in self.skeletons:
            self.skeletons[skeleton] = len(self.skeletons)
            self.nbytes += len(skeleton)
        return self.skeletons[skeleton]


@dataclass(frozen=True)
class Shard:
    """A shard that is open for reading, its rows mapped into memory.

    Attributes:
        rows: contents of its rows, in the order in which they were added.
        skeletons: of conditions, as JSON, by number.
        samples, skipped: as in `Contents`.
        file: the open safetensors file.
    """

    rows: Sequence[str]
    skeletons: Sequence[str]
    samples: Sequence[Sequence[int]]
    skipped: Sequence[str]
    file: Any

    def contents(self, sources: int) -> Contents:
        """What it was written from, to go on with."""
        contents = Contents(samples=[*map(list, self.samples)], skipped=[*self.skipped], sources=sources)
        for skeleton in self.skeletons:
            contents.number(skeleton)
        for content in self.rows:
            contents.add_row(content, self.row(content))
        return contents

    def row(self, content: str) -> Tensor:
        """A row, which is not to be written into."""
        row: Tensor = self.file.get_tensor(content)
        return row

    def shape(self, content: str) -> tuple[int, ...]:
        """The shape of a row, which is not read."""
        return tuple(self.file.get_slice(content).get_shape())


def content_of(tensor: Tensor) -> str:
    """The SHA-256, in hex, of dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def write_shard(folder: Path, number: int, contents: Contents) -> ShardFile:
    """Write shard `number` under a name that tells its content, so that it replaces no other version of it.

    Raises:
        SurgeryError: it cannot be written, for example because the disk is full.
    """
    listed = {
        "rows": [*contents.rows],
        "skeletons": [*contents.skeletons],
        "samples": contents.samples,
        "skipped": contents.skipped,
    }
    data = save(contents.rows, {"store": json.dumps(listed, separators=(",", ":"))})
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{number:05}-{sha256[:8]}.safetensors"
    write_atomically(folder / name, data)
    return ShardFile(name=name, size=len(data), sha256=sha256, sources=contents.sources, samples=len(contents.samples))


def open_shard(folder: Path, file: ShardFile) -> Shard:
    """The shard, once all of it has been compared with its checksum.

    Raises:
        ArtifactError: it is missing, truncated or altered.
    """
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.size:
            raise altered(path, f"it has {size:,} bytes instead of {file.size:,}")
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise altered(path, f"it cannot be read ({error.strerror})") from error
    if sha256 != file.sha256:
        raise altered(path, "its SHA-256 differs")
    opened: Any = safe_open(path, "pt")
    listed = json.loads(opened.metadata()["store"])
    return Shard(**listed, file=opened)
