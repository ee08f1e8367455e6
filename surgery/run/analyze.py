"""`surgery analyze`: figures of a model's layers while it samples."""

from __future__ import annotations

from typing import Any

from surgery.progress import Progress
from surgery.run.subject_to_analyze import Analyzed, Sampling
from surgery.statistics.observer import Observer

Analysis = dict[str, Any]
"""Plain data: what was run, and what `surgery.statistics.observer.Observer.figures` gives."""


def analyze(name: str, found: Analyzed, sampling: Sampling, window: int | None, progress: Progress) -> Analysis:
    """Run a model and add up what is seen in it.

    Args:
        name: what to call it.
        found: the model, and what it is run on.
        sampling: how often it is run.
        window: k of the locality; by default an eighth of the tokens.
        progress: shows how far it has come.

    Raises:
        SurgeryError: of the kind that fits.
    """
    observer = Observer(found.model, window)
    with progress.stage("analyze", total=sampling.steps * sampling.samples) as bar:
        found.run(observer, bar.advance)
    return {
        "model": name,
        "class": type(found.model).__name__,
        "driven_by": found.driven_by,
        "forwards": observer.forwards,
        "seed": sampling.seed,
        **observer.figures(),
    }
