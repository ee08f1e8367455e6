"""Making the training data of a recipe beforehand, for a run in the same folder."""

from __future__ import annotations

from pathlib import Path

from surgery.data import Data
from surgery.device import require_device
from surgery.errors import RecipeError
from surgery.progress import Progress
from surgery.recipe import Recipe
from surgery.run.folder import RunFolder
from surgery.run.lock import locked
from surgery.run.subject import load_subject


def cache(recipe: Recipe, out: str | Path, device: str, progress: Progress) -> Path:
    """Make the samples that `apply` trains on, into the folder of its run; what is there already is not made again.

    Rules and stages of the recipe may still be changed: the samples rest on the model, the data and the seed.

    Args:
        recipe: whose data are made.
        out: folder of the run, which may have begun.
        device: where to make them.
        progress: shows how far it has come.

    Returns:
        The folder of the data.

    Raises:
        SurgeryError: of the kind that fits. What is made is kept, and gone on with the next time.
    """
    if not isinstance(recipe.data, Data):
        raise RecipeError(f"data: {recipe.data!r} is not made from anything, so there is nothing to cache")
    require_device(device)
    folder = RunFolder(out)
    RunFolder.require(out)
    data = load_subject(recipe.model, recipe.data, recipe.seed, device, folder.data, recipe.dtype).data
    with locked(out):
        data.stored(folder.data, progress)
    return folder.data
