"""How a run was made, and how to go on from it, in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.evaluate.report.html import definitions, text


def code_of(source: str, label: str) -> str:
    """Python, to be read and copied."""
    return f'<pre class="box" tabindex="0" role="region" aria-label="{text(label)}"><code>{text(source)}</code></pre>'


def origins_of(origins: Sequence[Mapping[str, Any]]) -> str:
    """Date, command, device and versions of each process that worked on a run; see `surgery.run.origin.Origin`."""
    return "".join(_origin(origin) for origin in origins)


def _origin(origin: Mapping[str, Any]) -> str:
    processes = origin.get("processes", 1)
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    rows = {
        "Started": text(origin["started"]),
        "Command": f"<code>{text(origin['command'])}</code>",
        "Device": text(origin["device"]),
        "Threads": text(
            f"{origin['threads']} in each of {processes} processes" if processes > 1 else origin["threads"]
        ),
        "Versions": text(versions),
    }
    return definitions(rows.items(), "facts")
