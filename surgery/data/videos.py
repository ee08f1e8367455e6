"""Folders of videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageSequence
from pydantic import Field
from torch import Tensor

from surgery.data.buckets import Size, nearest
from surgery.data.entries import captioned, contents
from surgery.data.images import Pictured
from surgery.data.pictures import Pictures, is_image, require_any
from surgery.data.pixels import pixels_of, upright_size
from surgery.store.sample import Skipped

DEFAULT_MILLISECONDS = 100.0
"""How long a frame is shown whose file does not say, as browsers do it."""
SMALLEST = 1e-6


class Videos(Pictured):
    """Videos in a folder, as training data: animated GIF, WebP and PNG files, and folders of frames.

    Captions are as with `Images`. Frames of a folder are sorted by name, numbers in it by value.

    Attributes:
        frames: how many a video gets; shorter ones are skipped, longer ones are cut.
        fps: frames a second that it gets.
        folder_fps: frames a second that folders of frames have; None: `fps`.
    """

    kind: Literal["videos"] = "videos"
    frames: int = Field(ge=1)
    fps: float = Field(gt=0, allow_inf_nan=False)
    folder_fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)


def read_videos(videos: Videos, own: Size) -> Pictures:
    """The videos in a folder, of one of the sizes asked for; `own` is the pipeline's height and width.

    Raises:
        RecipeError: there is no video, or a caption is missing.
    """
    folder = Path(videos.folder)
    files, folders = contents(folder)
    entries = captioned(folder, sorted([*files, *folders]), _is_video)
    require_any(folder, entries, _is_video, "video")
    return Pictures(folder, entries, partial(_size, sizes=videos.sizes(own)), partial(_pixels, videos=videos))


def _is_video(path: Path) -> bool:
    return any(map(is_image, contents(path)[0])) if path.is_dir() else is_image(path)


def _size(path: Path, sizes: Sequence[Size]) -> Size:
    """The one that fits the first frame best."""
    for image, _ in _frames(path, DEFAULT_MILLISECONDS):
        return nearest(sizes, upright_size(image))
    raise Skipped("holds no frame")


def _pixels(path: Path, size: Size, videos: Videos) -> Tensor:
    """(3, F, H, W): at each time that the video is to have a frame, the one that is shown then."""
    times = [1000 * number / videos.fps for number in range(videos.frames)]
    shown, found = 0.0, list[Tensor]()
    for image, milliseconds in _frames(path, videos.folder_fps or videos.fps):
        shown += milliseconds
        due = sum(time < shown - SMALLEST for time in times) - len(found)
        if due:
            found += [pixels_of(image, size)] * due
        if len(found) == len(times):
            return torch.stack(found, dim=1)
    raise Skipped(
        f"is too short: it lasts {shown / 1000:.2f} s, and {videos.frames} frames, {videos.fps:g} a second, "
        f"need more than {times[-1] / 1000:.2f} s"
    )


def _frames(path: Path, folder_fps: float) -> Iterator[tuple[Image.Image, float]]:
    """Each frame, and for how many milliseconds it is shown."""
    if path.is_dir():
        for file in sorted(contents(path)[0], key=_by_number):
            with Image.open(file) as image:
                yield image, 1000 / folder_fps
        return
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            yield frame, float(frame.info.get("duration") or DEFAULT_MILLISECONDS)


def _by_number(path: Path) -> list[tuple[str, int]]:
    """A key that sorts "frame 9" before "frame 10"."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", path.name)]
