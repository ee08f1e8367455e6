"""FID, KID, precision and recall: pictures on their way to torch-fidelity, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from surgery.errors import RecipeError, SurgeryError
from surgery.evaluate.context import Context
from surgery.evaluate.metrics import Fid, Kid, Precision, Recall
from surgery.evaluate.metrics.fidelity import Fidelity, _extractor, _real_features
from surgery.evaluate.sampling import Drawn
from tests.evaluate.fidelity import (
    NAME,
    Extractor,
    frechet,
    installed,
    kernel_distance,
    share_among,
    stand_in,
    statistics,
)
from tests.evaluate.test_metrics import Scaled, digits

COUNT = 70
"""More than one batch of the extractor."""


@pytest.fixture(params=[stand_in, installed], ids=["stand-in", "installed"], autouse=True)
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    request.param(monkeypatch)
    yield
    _extractor.cache_clear()
    _real_features.cache_clear()


def drawn(seed: int, brighter: int) -> np.ndarray:
    """Pictures (N, H, W, 3), each of a colour and with a contrast of its own."""
    generator = np.random.default_rng(seed)
    colours, contrasts = generator.uniform(40, 160, (COUNT, 1, 1, 3)), generator.uniform(1, 60, (COUNT, 1, 1, 3))
    return (colours + contrasts * generator.random((COUNT, 6, 5, 3)) + brighter).astype(np.uint8)


SAMPLES, REAL = drawn(0, 0), drawn(1, 30)


def features(pictures: np.ndarray) -> Tensor:
    return Extractor()(torch.from_numpy(pictures).permute(0, 3, 1, 2))[0]


def context(pictures: np.ndarray = SAMPLES) -> Context:
    model = Scaled()
    made = Drawn(torch.zeros(1), [Image.fromarray(picture) for picture in pictures])
    return Context(model, model, range(COUNT), digits(), 0, {}, 0, draw=lambda _: made)


def as_folder(folder: Path) -> Path:
    (folder / "more").mkdir(parents=True)
    for number, picture in enumerate(REAL):
        Image.fromarray(picture).save(folder / ("more" if number % 2 else "") / f"{number:03}.png")
    (folder / "readme.txt").write_text("pictures")
    return folder


def as_pictures(folder: Path) -> Path:
    np.savez(folder / "real.npz", arr_0=REAL)
    return folder / "real.npz"


def as_statistics(folder: Path) -> Path:
    np.savez(folder / "real.npz", **statistics(features(REAL)))
    return folder / "real.npz"


EXPECTED: dict[type[Fidelity], Callable[[Tensor, Tensor], float]] = {
    Fid: lambda samples, real: frechet(statistics(samples), statistics(real)),
    Kid: kernel_distance,
    Precision: share_among,
    Recall: lambda samples, real: share_among(real, samples),
}
CASES = [(metric, made) for metric in EXPECTED for made in (as_folder, as_pictures)] + [(Fid, as_statistics)]


@pytest.mark.parametrize(("metric", "made"), CASES)
def test_a_metric_is_that_of_the_features(metric, made, tmp_path):
    judging = metric(reference=made(tmp_path), extractor=NAME)
    assert judging.check(digits(), COUNT) is None
    expected = EXPECTED[metric](features(SAMPLES), features(REAL))
    assert judging.compute(context()) == pytest.approx(expected, rel=1e-4)


def test_the_same_pictures_are_perfect(tmp_path):
    made = as_pictures(tmp_path)
    values = [metric(reference=made, extractor=NAME).compute(context(REAL)) for metric in (Fid, Precision, Recall)]
    assert values == pytest.approx([0, 1, 1], abs=1e-6)


def test_features_are_extracted_once(tmp_path, monkeypatch):
    asked = []
    forward = Extractor.forward
    monkeypatch.setattr(Extractor, "forward", lambda self, x: asked.append(len(x)) or forward(self, x))
    judged, made = context(), as_pictures(tmp_path)
    for metric in EXPECTED:
        metric(reference=made, extractor=NAME).compute(judged)
    assert asked == [64, COUNT - 64] * 2


def test_what_cannot_be_computed_is_said_before(tmp_path):
    np.savez(tmp_path / "other.npz", images=REAL)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("text")
    reasons = {
        "nowhere": "nowhere does not exist; check the path",
        "other.npz": "other.npz holds images; it needs arr_0, pictures",
        "empty": "empty holds no pictures; name another folder",
        "text.npz": "text.npz is no .npz file",
    }
    for name, reason in reasons.items():
        assert reason in str(Fid(reference=tmp_path / name).check(digits(), COUNT))
    assert "1 sample is too few" in str(Fid(reference=as_pictures(tmp_path)).check(digits(), 1))
    assert "holds mu, sigma; it needs arr_0" in str(Kid(reference=as_statistics(tmp_path)).check(digits(), COUNT))
    with pytest.raises(RecipeError, match=f"no extractor 'other'; choose one of .*{NAME}"):
        Fid(reference=tmp_path, extractor="other").compute(context())
    with pytest.raises(SurgeryError, match="metric 'fid': the pipeline gives no pictures"):
        Fid(reference=tmp_path, extractor=NAME).compute(context(SAMPLES[:0]))
