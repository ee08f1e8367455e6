"""How a model of the digits is fed: by its pipeline, with the digits and their labels."""

from __future__ import annotations

from typing import Any

from surgery.digits.data import CLASSES, Labelled
from surgery.pipelines.calls import Calls
from surgery.pipelines.feed import Feed
from surgery.pipelines.known import require_known
from surgery.pipelines.probe import measure
from surgery.pipelines.sources import LatentSamples
from surgery.store import InMemory, Sample

LABELS = "class_labels"
GUIDED = 2.0
"""Any scale but 1 shows the branch without a class."""
STEPS = 25


def digits_feed(pipeline: Any, digits: Labelled) -> Feed:
    """The digits as samples of a `DigitsPipeline`.

    Raises:
        RecipeError: its model is made for pictures of another size, or does not know all labels.
    """
    wiring = measure(pipeline, {LABELS: [0], "guidance_scale": GUIDED}).to(pipeline.device)
    rows = [Sample(image, {LABELS: label}) for image, label in zip(*digits, strict=True)]
    samples = LatentSamples(rows, wiring)
    require_known(pipeline, wiring, [samples[int(digits.labels.argmax())]])
    calls = Calls({}, tuple(range(CLASSES)), LABELS, labels=True, steps=STEPS)
    return Feed(calls, (wiring,), InMemory([samples[number] for number in range(len(rows))]))
