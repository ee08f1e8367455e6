"""The graft library: distilled operators on disk, each under a key of all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from surgery.errors import ArtifactError
from surgery.files import json_digest, write_atomically, write_json
from surgery.rewriting import Edit
from surgery.training.checkpoint import digest
from surgery.training.distil import Distil
from surgery.training.record import LossRecord
from surgery.training.source import TrainingData

FORMAT = "surgery graft 2"
APART = {"rule", "params", "flops", "flops_mixing"}
"""Of an edit, what a distilled operator does not depend on."""
SHOWN_ONLY = {"checkpoint_every", "sample_every", "library"}
"""Of a distillation, the same."""


@dataclass(frozen=True)
class Graft:
    """Distilled operators.

    Attributes:
        weights: of the student, by name.
        losses: of each step of the distillation, by site.
    """

    weights: dict[str, Tensor]
    losses: tuple[LossRecord, ...] = ()


def key_of(
    edits: Sequence[Edit], teacher: str, data: TrainingData, config: Distil, seed: int
) -> tuple[str, dict[str, Any]]:
    """The key of the graft that `edits` ask for, and what it is a digest of.

    Args:
        edits: with the operators, their sizes, places, inheritance and losses.
        teacher: the digest of its weights.
        data: what is distilled on.
        config: the budget: how long and how fast.
        seed: of the batches, and of random weights.
    """
    content = {
        "format": FORMAT,
        "edits": [edit.model_dump(mode="json", exclude=APART) for edit in edits],
        "teacher": teacher,
        "data": dict(data.identity),
        "distil": config.model_dump(mode="json", exclude=SHOWN_ONLY),
        "seed": seed,
    }
    return json_digest(content)[:32], content


class GraftLibrary:
    """A folder with two files for each graft, KEY.json and KEY.safetensors; several processes may use it at a time.

    The JSON says what the graft is of, and is written last: what has none is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.json")))

    def __contains__(self, key: str) -> bool:
        return self._json(key).is_file()

    def get(self, key: str) -> Graft:
        """The graft under `key`.

        Raises:
            ArtifactError: it is not there, or damaged.
        """
        described = self.describe(key)
        try:
            weights = load(self._weights(key).read_bytes())
            records = tuple(LossRecord(**record) for record in described["losses"])
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise self._damaged(key, str(error)) from error
        if digest(weights) != described.get("sha256"):
            raise self._damaged(key, "its checksum does not match its content")
        return Graft(weights, records)

    def put(self, key: str, graft: Graft, content: Mapping[str, Any]) -> None:
        """Keep a graft; `content` is what `key` is a digest of.

        Raises:
            SurgeryError: it cannot be written.
        """
        weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in graft.weights.items()}
        write_atomically(self._weights(key), save(weights))
        losses = [asdict(record) for record in graft.losses]
        self._write(key, {**content, "sha256": digest(weights), "losses": losses, "notes": {}})

    def describe(self, key: str) -> dict[str, Any]:
        """What the graft under `key` is of, and what was noted of it.

        Raises:
            ArtifactError: it is not there, or damaged.
        """
        try:
            found = json.loads(self._json(key).read_text())
        except (OSError, ValueError) as error:
            raise self._damaged(key, str(error)) from error
        if not isinstance(found, dict):
            raise self._damaged(key, f"it holds a {type(found).__name__}")
        return found

    def note(self, key: str, name: str, value: Any) -> None:
        """Keep a plain `value` beside the graft, such as what was measured of it."""
        described = self.describe(key)
        self._write(key, {**described, "notes": {**described.get("notes", {}), name: value}})

    def _write(self, key: str, content: Mapping[str, Any]) -> None:
        write_json(self._json(key), content)

    def _json(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _weights(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _damaged(self, key: str, why: str) -> ArtifactError:
        return ArtifactError(f"graft {self._json(key)}: truncated or altered ({why[:200]}); delete it, and repeat")
