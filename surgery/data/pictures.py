"""The pictures of a folder, read where they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from surgery.data.buckets import Size
from surgery.data.entries import Entry, identity
from surgery.data.generated import Prompt
from surgery.errors import RecipeError, in_one_line
from surgery.store.sample import Skipped


@dataclass(frozen=True)
class Picture:
    """An image or a video.

    Attributes:
        name: of the file.
        pixels: in [-1, 1], (3, H, W), or (3, F, H, W) of a video.
        text: its caption; None without.
        label: number of its class; None without.
    """

    name: str
    pixels: Tensor
    text: str | None
    label: int | None


@dataclass(frozen=True)
class Pictures:
    """The images or videos of a folder, by number.

    Attributes:
        folder: where they are.
        entries: of each file; some may turn out to be no pictures.
        size: the height and width that one gets, of which no more is read than it takes.
        read: gives the pixels of one in that size.
    """

    folder: Path
    entries: Sequence[Entry]
    size: Callable[[Path], Size]
    read: Callable[[Path, Size], Tensor]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Picture:
        """Read a picture.

        Raises:
            Skipped: the file is none.
        """
        entry = self.entries[number]
        try:
            pixels = self.read(entry.path, self.size(entry.path))
        except Skipped as reason:
            raise Skipped(f"{entry.path}: {reason}") from None
        except Exception as error:  # Pillow's readers raise errors of any class where a file is damaged
            raise Skipped(f"{entry.path}: {_reason(error)}") from error
        return Picture(entry.path.name, pixels, entry.text, entry.label)

    def sizes(self) -> list[Size]:
        """The sizes that pictures get, the most frequent first."""
        found: Counter[Size] = Counter()
        for entry in self.entries:
            with suppress(Exception):  # see __getitem__, which skips it
                found[self.size(entry.path)] += 1
        return [size for size, _ in found.most_common()]

    def prompts(self) -> list[Prompt]:
        """The captions, or the labels, in order; none of pictures that have neither."""
        found = [entry.text if entry.label is None else entry.label for entry in self.entries]
        return [prompt for prompt in found if prompt is not None]

    def identity(self) -> dict[str, str]:
        """What tells them from others: digests of all files, and of texts and labels. Reads all files."""
        return identity(self.folder, self.entries)


def is_image(path: Path) -> bool:
    """Whether a file begins like an image."""
    try:
        with Image.open(path):
            return True
    except Exception:  # see Pictures
        return False


def require_any(folder: Path, entries: Sequence[Entry], is_picture: Callable[[Path], bool], what: str) -> None:
    """Check that there is a picture at all.

    Raises:
        RecipeError: there is none.
    """
    if not any(is_picture(entry.path) for entry in entries):
        others = f"; {len(entries)} there are something else, such as {entries[0].path.name}" if entries else ""
        raise RecipeError(f"{folder}: holds no {what}{others}; check the path given as `data`")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is no image"
    return f"cannot be read as an image ({in_one_line(error, 200)})"
