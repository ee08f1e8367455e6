"""Folders of videos: which frame is shown when."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.data import Data, Pictures, Videos, read_videos
from surgery.errors import ConfigError, RecipeError
from surgery.store import Skipped
from tests.data.draw import clip, greys, halves, write


def read(folder: Path, frames: int, fps: float, folder_fps: float | None = None) -> Pictures:
    videos = Videos(folder=str(folder), frames=frames, fps=fps, folder_fps=folder_fps)
    return read_videos(videos, (16, 16))


@given(
    milliseconds=st.lists(st.integers(1, 20).map(lambda n: 10 * n), min_size=2, max_size=8),
    frames=st.integers(1, 9),
    fps=st.integers(1, 30),
    suffix=st.sampled_from([".gif", ".webp"]),
)
@settings(max_examples=25)
def test_each_frame_is_what_is_shown_at_its_time(milliseconds: list[int], frames: int, fps: int, suffix: str) -> None:
    shown = [n for n, duration in enumerate(milliseconds) for _ in range(duration)]
    times = [Fraction(1000 * k, fps) for k in range(frames)]
    with TemporaryDirectory() as folder:
        path = clip(Path(folder) / f"a{suffix}", milliseconds)
        video = read(Path(folder), frames, fps)
        if times[-1] >= len(shown):
            with pytest.raises(Skipped, match=rf"{re.escape(str(path))}: is too short: it lasts"):
                video[0]
            return
        pixels = video[0].pixels
    assert pixels.shape == (3, frames, 16, 16)
    assert greys(pixels) == [shown[int(time)] for time in times]


def test_folders_of_frames_go_by_number_and_have_captions(tmp_path: Path) -> None:
    for n in range(12):
        folder = tmp_path / "clip"
        folder.mkdir(exist_ok=True)
        halves(16, 16, (20 * n,) * 3, (20 * n,) * 3).save(folder / f"frame {n}.png")
    (tmp_path / "clip.txt").write_text("a clip")
    assert read(tmp_path, 12, 8)[0].text == "a clip"
    assert greys(read(tmp_path, 12, 8)[0].pixels) == list(range(12))
    assert greys(read(tmp_path, 6, 8, folder_fps=16)[0].pixels) == list(range(0, 12, 2))


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="holds no video; 2 there are something else, such as"):
        read(tmp_path, 2, 8)
    write(tmp_path, "still.png")
    with pytest.raises(Skipped, match=r"a\.mp4: is no image"):
        read(tmp_path, 2, 8)[0]
    with pytest.raises(Skipped, match=r"still\.png: is too short: it lasts 0\.10 s, and 2 frames, 8 a second"):
        read(tmp_path, 2, 8)[2]


def test_another_frame_is_another_identity(tmp_path: Path) -> None:
    write(tmp_path, "clip/0.png", "clip/1.png")
    before = read(tmp_path, 1, 1).identity()
    halves(16, 16, "green").save(tmp_path / "clip" / "1.png")
    assert read(tmp_path, 1, 1).identity()["images"] != before["images"]


def test_as_data() -> None:
    videos = Videos(folder="f", frames=81, fps=16)
    assert Data.from_data(videos.model_dump(mode="json")) == videos
    with pytest.raises(ConfigError, match="Videos: 'frames' is missing"):
        Videos(folder="f", fps=16)  # type: ignore[call-arg]
