"""What FID, KID, precision and recall have in common: features of pictures, through torch-fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from surgery.errors import RecipeError, SurgeryError
from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.training.source import TrainingData

BATCH = 64
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Fidelity(Metric):
    """Compares features of the samples' pictures with those of real ones.

    Attributes:
        reference: a folder of real pictures, or an .npz file of the ADM evaluation (Dhariwal & Nichol 2021), with `arr_0`
            (pictures, (N, H, W, 3) uint8), or with `mu` and `sigma`, which serve FID alone.
        weights: file of the extractor's weights; None downloads those of torch-fidelity.
        extractor: the name of it in torch-fidelity; the default is the network of the published figures.
    """

    usual_samples: ClassVar[int] = 10_000
    serving: ClassVar[frozenset[str]] = frozenset({"arr_0"})
    """What of an .npz file serves in the place of pictures."""

    reference: Path
    weights: Path | None = None
    extractor: str = "inception-v3-compat"

    def check(self, data: TrainingData, samples: int) -> str | None:  # noqa: ARG002
        """Refuse what could not be computed: without torch-fidelity, the reference, the weights, or two samples."""
        if find_spec("torch_fidelity") is None:
            return "torch-fidelity is not installed; use pip install 'surgery[fid]'"
        missing = [path for path in (self.reference, self.weights) if path is not None and not path.exists()]
        if missing:
            return f"{missing[0]} does not exist; check the path"
        if samples < 2:
            return f"{samples} sample is too few; use at least 2"
        return self._unusable()

    def features_of(self, context: Context) -> Tensor:
        """Those of the model's pictures, (N, F); metrics of one extractor share them."""
        key = ("features", self.extractor, self.weights)
        if key not in context.shared:
            if not context.pictures:
                raise SurgeryError(f"metric {self.name!r}: the pipeline gives no pictures")
            context.shared[key] = _extracted(self._loaded(), context.pictures)
        features: Tensor = context.shared[key]
        return features

    def real_features(self) -> Tensor:
        """Those of the reference, (M, F)."""
        return _real_features(self.reference, self.extractor, self.weights)

    def _loaded(self) -> Any:
        return _extractor(self.extractor, self.weights)

    def _unusable(self) -> str | None:
        """Why the metric cannot be computed from the reference, if it cannot."""
        if self.reference.is_dir():
            return None if _files(self.reference) else f"{self.reference} holds no pictures; name another folder"
        try:
            held = set(getattr(np.load(self.reference), "files", ()))  # a plain array has none
        except (OSError, ValueError, EOFError) as error:
            return f"{self.reference} is no .npz file ({error}); name one, or a folder of pictures"
        if held >= {"arr_0"} or held >= self.serving:
            return None
        return f"{self.reference} holds {', '.join(sorted(held)) or 'nothing'}; it needs arr_0, pictures"


@lru_cache(maxsize=1)
def _extractor(name: str, weights: Path | None) -> Any:
    from torch_fidelity.utils import FEATURE_EXTRACTORS_REGISTRY, create_feature_extractor

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        known = ", ".join(FEATURE_EXTRACTORS_REGISTRY)
        raise RecipeError(f"torch-fidelity has no extractor {name!r}; choose one of {known}")
    layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
    path = None if weights is None else str(weights)
    return create_feature_extractor(
        name, [layer], cuda=torch.cuda.is_available(), feature_extractor_weights_path=path, verbose=False
    )


@lru_cache(maxsize=1)
def _real_features(reference: Path, name: str, weights: Path | None) -> Tensor:
    return _extracted(_extractor(name, weights), _real_pictures(reference))


def _real_pictures(reference: Path) -> Sequence[Any]:
    """Paths of pictures, or their pixels."""
    if reference.is_dir():
        return _files(reference)
    pixels: Sequence[Any] = np.load(reference)["arr_0"]
    return pixels


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)


def _extracted(extractor: Any, pictures: Sequence[Any]) -> Tensor:
    """The features (N, F) of pictures of one size, in float32 on the CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = []
    with torch.no_grad():
        for start in range(0, len(pictures), BATCH):
            pixels = torch.stack([_pixels(picture) for picture in pictures[start : start + BATCH]])
            parts.append(extractor(pixels.to(device))[0].cpu().float())
    return torch.cat(parts)


def _pixels(picture: Any) -> Tensor:
    """(3, H, W), uint8."""
    if isinstance(picture, Path):
        with Image.open(picture) as opened:
            return _pixels(opened.convert("RGB"))
    if isinstance(picture, Image.Image):
        picture = np.array(picture.convert("RGB"))
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
