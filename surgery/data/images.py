"""Folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image
from pydantic import Field, JsonValue, ValidationInfo, field_validator
from torch import Tensor

from surgery.config import PathText
from surgery.data.base import Data
from surgery.data.buckets import Size, bucket_sizes, nearest
from surgery.data.entries import Entry, captioned, contents
from surgery.data.pictures import Pictures, is_image, require_any
from surgery.data.pixels import pixels_of, upright_size
from surgery.errors import RecipeError


class Pictured(Data):
    """What images and videos have in common.

    Attributes:
        folder: where they are.
        size: side of the square whose area they get, in pixels; None: they all get the size of the pipeline's own.
        step: what their sides are multiples of where `size` is given: each gets the height and width that fit it best.
        call: keywords of the pipeline besides captions and sizes, such as `guidance_scale`; where there are no captions,
            the prompt that all pictures have.
    """

    unnamed: ClassVar[str | None] = "folder"
    folder: PathText
    call: dict[str, JsonValue] = Field(default={})
    size: int | None = Field(default=None, ge=1)
    step: int = Field(default=64, ge=1, validate_default=True)

    @field_validator("step")
    @classmethod
    def _divides_size(cls, step: int, info: ValidationInfo) -> int:
        size = info.data.get("size")
        if size is not None and size % step:
            raise ValueError(f"must divide size={size}")
        return step

    def sizes(self, own: Size) -> tuple[Size, ...]:
        """The sizes to choose from, where a pipeline's own is `own`."""
        return (own,) if self.size is None else bucket_sizes(self.size, self.step)


class Images(Pictured):
    """Images in a folder, as training data.

    A caption is in the text file of the same name beside an image, or in the folder's `metadata.jsonl`, a line
    `{"file_name": "a.png", "text": "a cat"}` for each image. Without files of its own, a folder holds one folder for each
    class; labels count these by name, from 0.
    """

    kind: Literal["images"] = "images"


def read_images(images: Images, own: Size) -> Pictures:
    """The images in a folder, of one of the sizes asked for; `own` is the pipeline's height and width.

    Raises:
        RecipeError: there is no image; a caption is missing; or images and folders of images are mixed.
    """
    folder = Path(images.folder)
    files, folders = contents(folder)
    entries = captioned(folder, files, is_image)
    if folders and all(entry.text is None for entry in entries):
        mixed = next((path for path in files if is_image(path)), None)
        if mixed is not None:
            raise RecipeError(f"{folder}: holds {mixed.name} beside folders; put all images into folders, or none")
        entries += _of_classes(folders)
    require_any(folder, entries, is_image, "image")
    return Pictures(folder, entries, partial(_size, sizes=images.sizes(own)), _pixels)


def _of_classes(folders: Sequence[Path]) -> list[Entry]:
    return [Entry(path, label=label) for label, folder in enumerate(folders) for path in contents(folder)[0]]


def _size(path: Path, sizes: Sequence[Size]) -> Size:
    with Image.open(path) as image:
        return nearest(sizes, upright_size(image))


def _pixels(path: Path, size: Size) -> Tensor:
    with Image.open(path) as image:
        return pixels_of(image, size)
