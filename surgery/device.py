"""The device that a user names."""

from __future__ import annotations

import platform
from pathlib import Path

from surgery.errors import RecipeError, first_line


def require_device(name: str) -> None:
    """Raise RecipeError unless tensors can be put on the device called `name` and computed with."""
    import torch  # late: the command line names devices before it needs torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add(1)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        at_hand = " or ".join(["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
        raise RecipeError(
            f"the device {name!r} cannot be used ({first_line(error)[:120]}); there is {at_hand}"
        ) from None
    if device.type == "meta":
        raise RecipeError("the device 'meta' holds no values; use cpu or cuda")


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
