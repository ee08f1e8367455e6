"""Weights as safetensors files, written and read a tensor at a time, so that memory holds no second copy of them.

The layout is that of https://github.com/huggingface/safetensors: the length of the header in 8 bytes, a JSON header,
the tensors. A file is read only if its header is, byte by byte, what `write_weights` gives for the tensors that it names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from surgery.artifact.description import WeightsFile, altered, open_regular
from surgery.parallel.whole import whole
from surgery.raw import raw_bytes

SHARD = 5 * 10**9
"""Bytes of tensors from which on there are several files."""
LONGEST_HEADER = 32 * 2**20
DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.int32: "I32", torch.uint32: "U32", torch.int64: "I64", torch.uint64: "U64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
OWN = re.compile(r"\.?model(-\d{5}-of-\d{5})?\.safetensors(\.[\w.]+)?")
"""Names of the files of an artifact, and of those that become such."""
ANY = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)[.-].*(safetensors|bin)")
"""Names of the files that diffusers and transformers take for a model's weights."""
TYPES = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Slot:
    """The shape and dtype of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_weights(folder: Path, tensors: Mapping[str, Tensor], largest: int = SHARD) -> tuple[WeightsFile, ...]:
    """Write `tensors` into `folder`, each file under a name that tells its content; `settle` gives it its own.

    Raises:
        OSError: it cannot be written; nothing is left behind then.
    """
    shards = list(_shards(tensors, largest))
    written: list[WeightsFile] = []
    try:
        for number, shard in enumerate(shards, 1):
            of = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
            written.append(_write_file(folder, f"model{of}.safetensors", shard))
    except BaseException:
        for file in written:
            _pending(folder, file).unlink(missing_ok=True)
        raise
    return tuple(written)


def give_parts(tensors: Mapping[str, Tensor], largest: int = SHARD) -> None:
    """Let the first process put divided tensors together, one after the other, as it calls `write_weights` on them."""
    for shard in _shards(tensors, largest):
        for tensor in shard.values():
            whole(tensor.detach())


def settle(folder: Path, files: Sequence[WeightsFile]) -> None:
    """Give `files` their own names, and remove what older artifacts and failed attempts have left in `folder`."""
    for file in files:
        _pending(folder, file).replace(folder / file.name)
    names = {file.name for file in files}
    for path in folder.iterdir():
        if path.name not in names and OWN.fullmatch(path.name):
            path.unlink()


def foreign_weights(folder: Path, holds_artifact: bool) -> list[str]:
    """Names of the files of weights in `folder`, if it exists, that are not those of an artifact."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if ANY.fullmatch(name) and not (holds_artifact and OWN.fullmatch(name))]


def open_weights(folder: Path, file: WeightsFile) -> BinaryIO:
    """The file in `folder`, by its own name or, if a save was interrupted after it was complete, by that of before.

    Raises:
        ArtifactError: it is missing, no regular file, or of another size.
    """
    pending = _pending(folder, file)
    stream = open_regular(pending if pending.exists() else folder / file.name)
    size = os.fstat(stream.fileno()).st_size
    if size != file.size:
        stream.close()
        raise altered(folder / file.name, f"it has {size:,} bytes instead of {file.size:,}")
    return stream


def read_header(stream: BinaryIO, path: Path, file: WeightsFile) -> dict[str, Slot]:
    """The tensors in a file, in their order; the stream is then at the first one.

    Raises:
        ArtifactError: it is no header of such a file.
    """
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if length > min(file.size - 8, LONGEST_HEADER):
        raise altered(path, "its header is longer than the file")
    text = stream.read(length)
    if hashlib.sha256(start + text).hexdigest() != file.header_sha256:
        raise altered(path, "the SHA-256 of its header differs")
    try:
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        slots = {name: Slot(tuple(e["shape"]), TYPES[e["dtype"]]) for name, e in entries.items()}
        as_written = _header(slots)[8:] == text and 8 + length + sum(s.nbytes for s in slots.values()) == file.size
    except Exception as error:  # JSON of any other shape
        raise altered(path, "its header cannot be read") from error
    if not as_written:
        raise altered(path, "its header does not fit its content")
    return slots


def read_tensors(
    stream: BinaryIO, path: Path, slots: Mapping[str, Slot], sha256: str, place: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """The tensors of a file whose header has been read, each handed to `place` as it comes.

    Raises:
        ArtifactError: the checksum is another one.
    """
    digest = hashlib.sha256(_header(slots))
    found: dict[str, Tensor] = {}
    for name, slot in slots.items():
        tensor = torch.empty(slot.shape, dtype=slot.dtype)
        if slot.nbytes and stream.readinto(raw_bytes(tensor)) != slot.nbytes:  # type: ignore[attr-defined]
            raise altered(path, "it ends early")
        digest.update(raw_bytes(tensor))
        found[name] = place(tensor)
    if digest.hexdigest() != sha256:
        raise altered(path, "its SHA-256 differs")
    return found


def _pending(folder: Path, file: WeightsFile) -> Path:
    return folder / f".{file.name}.{file.sha256[:16]}"


def _write_file(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> WeightsFile:
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as stream:
            file = _write(stream, name, tensors)
        temporary.replace(_pending(folder, file))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return file


def _write(stream: BinaryIO, name: str, tensors: Mapping[str, Tensor]) -> WeightsFile:
    """Write `tensors` and force them to the disk; `name` is what the file will be called."""
    header = _header({name: Slot(tuple(t.shape), t.dtype) for name, t in tensors.items()})
    digest, size = hashlib.sha256(header), len(header)
    header_sha256 = digest.hexdigest()
    stream.write(header)
    for tensor in tensors.values():
        content = raw_bytes(whole(tensor.detach()))
        digest.update(content)
        stream.write(content)
        size += len(content)
    stream.flush()
    os.fsync(stream.fileno())
    return WeightsFile(name=name, size=size, sha256=digest.hexdigest(), header_sha256=header_sha256)


def _header(slots: Mapping[str, Slot]) -> bytes:
    """The length and the JSON of the header of a file with these tensors, padded so that they start aligned."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, slot in slots.items():
        end = start + slot.nbytes
        entries[name] = {"dtype": DTYPES[slot.dtype], "shape": list(slot.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _shards(tensors: Mapping[str, Tensor], largest: int) -> Iterator[dict[str, Tensor]]:
    """`tensors`, the widest types first so that all are aligned, in parts of at most `largest` bytes or one tensor."""
    shard: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > largest:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard
