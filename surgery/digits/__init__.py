"""The embedded model: a small diffusion transformer of handwritten digits, and the script that trains it."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
