"""Filling a store, so that a crash at any moment loses at most the last seconds of work, and nothing is taken twice.

A shard that is still growing is written again and again, each time under another name; the manifest says which one is
valid. What a shard holds does not depend on when it was written, so neither do the files of a full store.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from rich.filesize import decimal

from surgery.errors import ArtifactError, SurgeryError
from surgery.parallel.group import by_first, from_first, is_first, rank, size, to_first
from surgery.progress import Progress, SilentProgress
from surgery.store.growing import Growing
from surgery.store.manifest import MANIFEST, SHARD_NAME, Manifest, read_manifest, require_identity, write_manifest
from surgery.store.sample import Sample, Skipped, Source
from surgery.store.shard import Contents, open_shard, write_shard
from surgery.store.store import Store

SHARD_BYTES, SHARD_SOURCES = 64 * 2**20, 4096
"""A shard is full once it has so many bytes of rows, or took so many samples."""
SECONDS_BETWEEN_WRITES = 30.0
LOCK = ".lock"
STAGE = "cache"
NAMED = 3
"""So many skipped samples are named."""
Made = Sample | Skipped
LEFT_BEHIND = re.compile(rf"{SHARD_NAME}|\.({SHARD_NAME}|{re.escape(MANIFEST)})\.\d+\.tmp")


def fill(folder: str | Path, identity: Mapping[str, str], source: Source, progress: Progress | None = None) -> Store:
    """The store in `folder` with all samples of `source`; those that it holds already are not made again.

    Args:
        folder: of the store, which is begun there if there is none.
        identity: what the source is made from, such as the model, the scheduler, digests of images and captions, the
            version of diffusers: whatever changes the samples.
        source: of the samples.
        progress: says before about how many bytes and how long it will take, by the first sample; shows how many are
            done; and says which were skipped.

    Raises:
        ArtifactError: the store is damaged or was made from something else; a sample cannot be stored; or none could be
            made.
        SurgeryError: the disk is full, or too small for the latents that are still to come; what is written is kept. Or
            another process is filling the store.
    """
    folder = Path(folder)
    found = by_first(partial(_found, folder, identity, len(source)))
    if found is None or found.done < found.sources:  # a full one need not be writable
        if is_first():
            with _alone(folder):
                _fill_up(folder, _begun(folder, identity, len(source)), source, progress or SilentProgress())
        else:
            _help(source)
    store = Store(folder)
    if not len(store):
        raise ArtifactError(f"{folder}: no sample could be made; the first: {', '.join(store.skipped[:1]) or 'none'}")
    if store.skipped and progress is not None:
        named = ", ".join([*store.skipped[:NAMED], *(["..."] if len(store.skipped) > NAMED else [])])
        progress.say(f"{STAGE}: {len(store.skipped):,} of {len(source):,} skipped: {named}")
    return store


def filled(folder: str | Path, identity: Mapping[str, str]) -> Store | None:
    """The store in `folder` if it is full; None if there is none, or it has to be filled first.

    Raises:
        ArtifactError: it is damaged, or was made from something else, which is named.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    require_identity(folder, manifest, identity, manifest.sources)
    return Store(folder) if manifest.done == manifest.sources else None


def _found(folder: Path, identity: Mapping[str, str], sources: int) -> Manifest | None:
    """The manifest in `folder`, if there is one; then it must be of this source."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    require_identity(folder, manifest, identity, sources)
    return manifest


def _begun(folder: Path, identity: Mapping[str, str], sources: int) -> Manifest:
    """The manifest in `folder`, a new one if there is none."""
    found = _found(folder, identity, sources)
    if found is not None:
        return found
    if any(re.fullmatch(SHARD_NAME, path.name) for path in folder.iterdir()):
        raise ArtifactError(f"{folder / MANIFEST}: is missing beside its shards; restore it, or delete the folder")
    manifest = Manifest(identity=dict(identity), sources=sources)
    write_manifest(folder, manifest)
    return manifest


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While open, no other process fills the store in `folder`. The lock goes with its process, however that ends."""
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise SurgeryError(f"{folder}: another process is filling this store; wait for it, or end it") from error
    except OSError as error:
        raise SurgeryError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def _fill_up(folder: Path, manifest: Manifest, source: Source, progress: Progress) -> None:
    filling = _Filling(folder, manifest)
    first = from_first(filling.done)
    if first == len(source):
        return
    start = time.monotonic()
    filling.keep(_made_next(source, first))
    seconds = time.monotonic() - start
    filling.require_space()
    progress.say(filling.estimate(seconds / size()))
    with progress.stage(STAGE, len(source), first) as stage:
        stage.advance(filling.done - first)
        while filling.done < len(source):
            made = _made_next(source, filling.done)
            filling.keep(made)
            stage.advance(len(made))
    filling.write()
    from_first(None)


def _help(source: Source) -> None:
    """Make samples for the first process, which keeps them, until the store is full."""
    first = from_first(0)
    for number in range(first, len(source), size()):
        _made_next(source, number)
    if first < len(source):
        from_first(None)


def _made_next(source: Source, first: int) -> list[Made]:
    """The samples from a number on, one by each process; the first one gets them."""
    number = first + rank()
    made = to_first(_made(source, number) if number < len(source) else None)
    return [each for each in made if each is not None]


def _made(source: Source, number: int) -> Made:
    try:
        return source[number]
    except Skipped as reason:
        return reason


class _Filling:
    """A store that is being filled: the manifest with all full shards, and the contents of the one that grows."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        _tidy(folder, manifest)
        shards = [open_shard(folder, file) for file in manifest.shards]
        numbers = {row: i for i, row in enumerate(row for shard in shards for row in shard.rows)}
        last = shards[-1].contents(manifest.shards[-1].sources) if shards else Contents()
        if _is_full(last):
            last = Contents()
        elif shards:
            manifest = manifest.model_copy(update={"shards": manifest.shards[:-1]})
        self._manifest, self._growing = manifest, Growing(last, numbers)
        self._written = time.monotonic()

    @property
    def done(self) -> int:
        """How many samples of the source have been taken."""
        return self._manifest.done + self._growing.contents.sources

    def estimate(self, seconds: float) -> str:
        """A line on what is still to come, by the samples so far; the last of them took so many seconds."""
        left = self._manifest.sources - self.done
        size = (self._manifest.size + self._growing.contents.nbytes) / self.done * left
        duration = timedelta(seconds=round(seconds * left))
        return f"{STAGE}: {left:,} samples to make, about {decimal(round(size))} and {duration}"

    def keep(self, made: Sequence[Made]) -> None:
        """Keep the next samples, on the disk before long."""
        for each in made:
            self._keep(each)

    def _keep(self, made: Made) -> None:
        if isinstance(made, Skipped):
            self._growing.skip(str(made))
        else:
            self._growing.add(made)
        full = _is_full(self._growing.contents)
        if full or time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Have everything that was taken on the disk."""
        contents = self._growing.contents
        if not contents.sources:
            return
        file = write_shard(self._folder, len(self._manifest.shards), contents)
        grown = self._manifest.model_copy(update={"shards": (*self._manifest.shards, file)})
        write_manifest(self._folder, grown)
        _tidy(self._folder, grown)
        if _is_full(contents):
            self._manifest, self._growing = grown, self._growing.next()
        self._written = time.monotonic()

    def require_space(self) -> None:
        """Refuse to go on where the disk has no room for latents like those of the last sample."""
        needed = self._growing.last_latents * (self._manifest.sources - self.done)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise SurgeryError(
                f"{self._folder}: at least {decimal(round(needed))} are still to be written, and {decimal(free)} "
                "are free; free some space, or take fewer or smaller samples"
            )


def _is_full(contents: Contents) -> bool:
    return contents.nbytes >= SHARD_BYTES or contents.sources >= SHARD_SOURCES


def _tidy(folder: Path, manifest: Manifest) -> None:
    """Remove earlier versions of shards, and what a killed write has left."""
    valid = {file.name for file in manifest.shards}
    for path in list(folder.iterdir()):
        if path.name not in valid and LEFT_BEHIND.fullmatch(path.name):
            path.unlink(missing_ok=True)
