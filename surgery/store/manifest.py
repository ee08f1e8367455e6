"""`store.json`: what a store was made from, and which shards it has so far, under a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from surgery.config import Config
from surgery.errors import ArtifactError
from surgery.files import json_digest, write_atomically
from surgery.wording import differing

MANIFEST = "store.json"
FORMAT: Literal[1] = 1
SHARD_NAME = r"\d{5}-[0-9a-f]{8}\.safetensors"


class ShardFile(Config):
    """A shard of a store.

    Attributes:
        name: in the folder; begins with the shard's number and ends with a part of its checksum.
        size: in bytes.
        sha256: of its content.
        sources: how many samples of the source it took, skipped ones included.
        samples: how many it holds.
    """

    name: str = Field(pattern=f"^{SHARD_NAME}$")
    size: int = Field(ge=8)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sources: int = Field(ge=1)
    samples: int = Field(ge=0)


class Manifest(Config):
    """`store.json`.

    Attributes:
        format: version of this layout.
        identity: what the store is made from, such as the model, the scheduler and a digest of the images.
        sources: how many samples the source has.
        shards: in order.
    """

    format: Literal[1] = FORMAT
    identity: dict[str, str]
    sources: int = Field(ge=0)
    shards: tuple[ShardFile, ...] = ()

    @property
    def done(self) -> int:
        """How many samples of the source have been taken."""
        return sum(shard.sources for shard in self.shards)

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest in `folder`.

    Raises:
        SurgeryError: it cannot be written; the old one is then kept.
    """
    content = manifest.model_dump(mode="json")
    write_atomically(folder / MANIFEST, json.dumps({**content, "checksum": json_digest(content)}, indent=1).encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`.

    Raises:
        ArtifactError: it is missing, altered, or of another version.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum")
        manifest = Manifest.model_validate(content)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); name the folder of a store") from error
    except Exception as error:  # JSON of any other shape, or none
        raise altered(path, "it is no manifest of a store") from error
    if checksum != json_digest(content):
        raise altered(path, "its checksum does not match its content")
    return manifest


def require_identity(folder: Path, manifest: Manifest, identity: Mapping[str, str], sources: int) -> None:
    """Check that the store in `folder` is made from what `identity` says.

    Raises:
        ArtifactError: it is not; what differs is named.
    """
    found = {**manifest.identity, "samples": str(manifest.sources)}
    wanted = {**identity, "samples": str(sources)}
    if shown := differing(found, wanted):
        raise ArtifactError(
            f"{folder}: the store there was made from something else: it differs in {shown}; "
            "use another folder, or delete this one"
        )


def altered(path: Path, why: str) -> ArtifactError:
    """The error for a file that is not as it was written."""
    return ArtifactError(f"{path}: truncated or altered: {why}; restore a copy, or delete the store and make it again")
