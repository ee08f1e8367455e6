"""What a run measures at each stage: the content of `metrics.json`."""

from __future__ import annotations

from typing import Literal

from surgery.config import Config

StageName = Literal["teacher", "rewritten", "distilled", "finetuned"]


class StageMetrics(Config):
    """One model of the run, judged by the same protocol and the same noise as the others.

    Attributes:
        stage: which model.
        frechet: the Frechet distance between features of its samples and of the data; smaller is better.
        accuracy: the share of samples, 0 to 1, that the classifier assigns to the class asked for.
        params: the number of parameters.
        flops: floating-point operations of one forward of one sample.
        latency_ms: the time of one forward, in milliseconds.
        seconds: the time that the stage took, in seconds.
    """

    stage: StageName
    frechet: float
    accuracy: float
    params: int
    flops: int
    latency_ms: float
    seconds: float


class Metrics(Config):
    """The figures of a run.

    Attributes:
        stages: the models judged, in the order of the stages; a run may have judged only some.
        seed: the seed of the recipe.
        recipe: the name of the recipe.
    """

    stages: tuple[StageMetrics, ...]
    seed: int
    recipe: str
