"""The larger embedded model: a small diffusion transformer of clothes, and the script that trains it."""
