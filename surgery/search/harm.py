"""How much worse a student predicts with one candidate's edits: the estimate that a search goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from torch import nn

from surgery.graph import ModelGraph
from surgery.progress import Progress
from surgery.rewriting.commit import commit
from surgery.search.candidates import Candidate
from surgery.sensitivity import GraftLibrary, grafts, put_in, sensitivity
from surgery.training.distil import Distil
from surgery.training.source import TrainingData


class Quality(Protocol):
    """An estimate of what candidates do to the quality of a model; those of a set are summed."""

    def harms(self, candidates: Sequence[Candidate]) -> list[float]:
        """How much worse the model is with the edits of each candidate alone; 0 if it is as good."""


@dataclass(frozen=True)
class Distilled:
    """The default estimate: each candidate is distilled briefly, and its student compared with the teacher.

    The harm is the mean square of how the student's predictions differ from the teacher's, over that of the teacher's, on
    data that no operator was distilled on.

    Attributes:
        graph: of the teacher.
        data: what is learnt from.
        config: how operators are distilled.
        seed: of new weights and of batches.
        library: keeps what was distilled and measured.
        progress: shows how far it has come.
    """

    graph: ModelGraph
    data: TrainingData
    config: Distil
    seed: int
    library: GraftLibrary
    progress: Progress

    def harms(self, candidates: Sequence[Candidate]) -> list[float]:
        """See `Quality`; rule by rule, so that what an interrupted search has of one is kept."""
        found: list[float] = []
        for _, same in groupby(candidates, key=lambda candidate: candidate.number):
            groups = [candidate.edits for candidate in same]
            effects = sensitivity(
                self.graph, groups, self.data, self.config,
                seed=self.seed, progress=self.progress, library=self.library,
            )  # fmt: skip
            found += [effect.output**2 for effect in effects]
        return found

    def student(self, chosen: Sequence[Candidate]) -> nn.Module:
        """The teacher with the edits of `chosen`, which do not exclude each other, as far as they were distilled.

        Inherited weights are in the teacher's memory; what is trained must be set apart first.
        """
        groups = [candidate.edits for candidate in chosen]
        student = commit(self.graph, [edit for group in groups for edit in group], self.seed, shared=True)
        learnt = grafts(
            self.graph, groups, self.data, self.config, seed=self.seed, progress=self.progress, library=self.library
        )
        for graft in learnt:
            put_in(student, graft.weights)
        return student
