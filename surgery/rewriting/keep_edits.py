"""What diffusers calls to save a student: without it the weights would be written and the edits lost."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn

from surgery.errors import ArtifactError

METHOD = "save_pretrained"


@dataclass(eq=False)
class SavePretrained:
    """Stands for a student's `save_pretrained`, which its pipeline calls too, and writes what `surgery.load` reads.

    Attributes:
        student: the model that is saved; in a copy of it, the copy.
    """

    student: nn.Module

    def __call__(self, save_directory: Any, *, push_to_hub: bool = False, variant: str | None = None, **_: Any) -> None:
        """Write the student to the folder `save_directory`; how its files are cut and named is not for the caller.

        Raises:
            ArtifactError: it cannot be saved, see `surgery.save`, or an option is given that an artifact does not have.
        """
        if push_to_hub or variant is not None:
            option, name = "push_to_hub" if push_to_hub else "variant", type(self.student).__name__
            raise ArtifactError(f"save_pretrained of a rewritten {name} takes no {option}; use surgery.save")
        import_module("surgery").save(self.student, save_directory)  # the public one: artifacts stand above rewriting


def keep_edits(student: nn.Module) -> None:
    """Let `student.save_pretrained`, if there is one, save the edits too."""
    if hasattr(type(student), METHOD):
        object.__setattr__(student, METHOD, SavePretrained(student))


def forget_edits(model: nn.Module) -> None:
    """Give `model` its own `save_pretrained` back."""
    vars(model).pop(METHOD, None)
