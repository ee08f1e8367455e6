"""How much worse a student predicts with one candidate's edits: the estimate that a search goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from surgery.graph import ModelGraph
from surgery.progress import Progress
from surgery.rewriting import Edit
from surgery.rewriting.commit import commit
from surgery.rewriting.edit import new_paths
from surgery.search.candidates import Candidate, exclusions
from surgery.training.apart import set_apart
from surgery.training.checkpoint import CheckpointStore
from surgery.training.distil import Distil, distil, sites_of
from surgery.training.optim import frozen_behaviour
from surgery.training.source import Source, TrainingData, predict

STAGE = "search"
DRAWS = 4
"""How often each held-out sample is noised."""


class Quality(Protocol):
    """An estimate of what each candidate does to the quality of the model; those of a set are summed."""

    def __call__(self, candidate: Candidate) -> float:
        """How much worse the model is with the edits of `candidate`; 0 if it is as good."""


@dataclass
class Distilled:
    """The default estimate: each candidate is distilled briefly, and its student compared with the teacher.

    Candidates that do not exclude each other are distilled together, as each learns from the teacher's activations alone.
    The harm is the mean squared difference of both models' predictions on held-out data over the mean square of the
    teacher's.

    Attributes:
        graph: of the teacher.
        candidates: all that will be asked for.
        data: what they learn from.
        config: how they are distilled.
        seed: of new weights and of batches.
        folder: for checkpoints, from which it goes on.
        progress: shows how far it has come.
    """

    graph: ModelGraph
    candidates: Sequence[Candidate]
    data: TrainingData
    config: Distil
    seed: int
    folder: Path
    progress: Progress
    _groups: dict[str, nn.Module] = field(default_factory=dict, init=False)
    _batches: Source | None = field(default=None, init=False)

    def __call__(self, candidate: Candidate) -> float:
        """See `Quality`."""
        student = self.student([candidate])
        teacher = self.graph.model
        if self._batches is None:
            self._batches = self.data.source(
                teacher, stage=STAGE, batch_size=self.config.batch_size, seed=self.seed, noising=self.config.noising
            )
        with frozen_behaviour(teacher, student), torch.no_grad():
            return _difference(teacher, student, self._batches)

    def student(self, chosen: Sequence[Candidate]) -> nn.Module:
        """The teacher with the edits of `chosen`, which do not exclude each other, as far as they were distilled.

        Inherited weights are in the teacher's memory; what is trained must be set apart first.
        """
        edits = [edit for candidate in chosen for edit in candidate.edits]
        student = commit(self.graph, edits, self.seed, shared=True)
        for candidate in chosen:
            group = self._group(candidate)
            for path in new_paths(candidate.edits):
                operator = student.get_submodule(path)
                set_apart(dict(operator.named_parameters()), self.graph.model)
                operator.load_state_dict(group.get_submodule(path).state_dict())
        return student

    def _group(self, candidate: Candidate) -> nn.Module:
        """The distilled student of the group that `candidate` is in."""
        if candidate.key not in self._groups:
            for number, group in enumerate(compatible_groups(self.candidates)):
                if candidate in group:
                    student = self._distilled(number, [edit for each in group for edit in each.edits])
                    self._groups |= {each.key: student for each in group}
        return self._groups[candidate.key]

    def _distilled(self, number: int, edits: Sequence[Edit]) -> nn.Module:
        teacher = self.graph.model
        student = commit(self.graph, edits, self.seed, shared=True)
        sites = sites_of(edits, teacher, student)
        if sites:
            store = CheckpointStore(self.folder / f"group-{number}")
            distil(
                teacher, student, sites, self.data, self.config,
                seed=self.seed, checkpoints=store, progress=self.progress,
            )  # fmt: skip
        return student


def compatible_groups(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates in as few groups as come by itself, of which none holds two that exclude each other."""
    apart = set(exclusions(candidates))
    groups: list[list[int]] = []
    for n in range(len(candidates)):
        free = (group for group in groups if not any((m, n) in apart for m in group))
        group = next(free, None)
        if group is None:
            groups.append([n])
        else:
            group.append(n)
    return [[candidates[n] for n in group] for group in groups]


def _difference(teacher: nn.Module, student: nn.Module, batches: Source) -> float:
    """The mean squared difference of predictions over the mean square of the teacher's."""
    wrong = size = 0.0
    for draw in range(DRAWS):
        for forward in batches.held_out(draw) or batches.training(draw):
            right = predict(teacher, forward.inputs).float()
            given = predict(student, forward.inputs).float()
            wrong += forward.share * (given - right).square().mean().item()
            size += forward.share * right.square().mean().item()
    return wrong / size if size else wrong
