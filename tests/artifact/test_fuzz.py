"""Whatever is done to an artifact, loading it gives an ArtifactError or the same student, in little memory and time."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import surgery
from surgery.artifact.description import DESCRIPTION, signed
from surgery.errors import ArtifactError
from tests.artifact.test_round_trip import student
from tests.tracing.test_exact import assert_same

WEIGHTS = "model.safetensors"
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    10**6,
    10**12,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "../../etc/passwd",
    [],
    {},
    [[1]],
]
SECONDS, BYTES = 5, 10**9


@cache
def original() -> Any:
    return student()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return surgery.save(original(), tmp_path_factory.mktemp("fuzz") / "saved")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in JSON data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def changed(data: Any, draw: random.Random) -> Any:
    """JSON `data` with a value at a random place exchanged, taken out, or put in twice."""
    *parents, last = draw.choice([place for place in places(data) if place])
    holder = data
    for key in parents:
        holder = holder[key]
    action = draw.randrange(4)
    if action == 0:
        del holder[last]
    elif action == 1 and isinstance(holder, list):
        holder.append(holder[last])
    elif action == 1:
        holder["surprise"] = holder[last]
    else:
        holder[last] = draw.choice(ODD)
    return data


def json_value(folder: Path, draw: random.Random) -> None:
    file = folder / DESCRIPTION
    file.write_text(json.dumps(changed(json.loads(file.read_text()), draw)))


def signed_json_value(folder: Path, draw: random.Random) -> None:
    """As somebody would who means harm."""
    file = folder / DESCRIPTION
    content = changed(json.loads(file.read_text()), draw)
    content.pop("checksum", None)
    file.write_bytes(signed(content))


def signed_size(folder: Path, draw: random.Random) -> None:
    """A number of the config, which says how large the model is."""
    file = folder / DESCRIPTION
    content = json.loads(file.read_text())
    del content["checksum"]
    config = content["base_config"]
    name = draw.choice([n for n, v in config.items() if isinstance(v, int) and not isinstance(v, bool)])
    config[name] = draw.choice([-1, 0, 1, 7, 10**4, 10**6])
    file.write_bytes(signed(content))


def signed_header(folder: Path, draw: random.Random) -> None:
    """The header of the weights, with every checksum made to fit."""
    path, file = folder / WEIGHTS, folder / DESCRIPTION
    content, description = path.read_bytes(), json.loads(file.read_text())
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(changed(json.loads(content[8 : 8 + length]), draw), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    start = len(header).to_bytes(8, "little") + header
    content = start + content[8 + length :]
    path.write_bytes(content)
    del description["checksum"]
    sha, header_sha = (hashlib.sha256(each).hexdigest() for each in (content, start))
    description["weights"][0] |= {"size": len(content), "sha256": sha, "header_sha256": header_sha}
    file.write_bytes(signed(description))


def flipped(name: str) -> Callable[[Path, random.Random], None]:
    def flip(folder: Path, draw: random.Random) -> None:
        content = bytearray((folder / name).read_bytes())
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(content)

    return flip


def resized(name: str) -> Callable[[Path, random.Random], None]:
    def resize(folder: Path, draw: random.Random) -> None:
        size = (folder / name).stat().st_size
        os.truncate(folder / name, draw.choice([0, 1, 8, draw.randrange(size), size + draw.randrange(9), 10**11]))

    return resize


def first_bytes(folder: Path, draw: random.Random) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(draw.choice([0, 1, 10**6, 2**40, 2**64 - 1]).to_bytes(8, "little"))


def another_kind_of_file(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice([WEIGHTS, DESCRIPTION])
    path.unlink()
    draw.choice([path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), lambda: None])()


MUTATIONS = {
    "json value": json_value,
    "signed json value": signed_json_value,
    "signed size": signed_size,
    "signed header": signed_header,
    "json flipped": flipped(DESCRIPTION),
    "weights flipped": flipped(WEIGHTS),
    "json resized": resized(DESCRIPTION),
    "weights resized": resized(WEIGHTS),
    "first bytes": first_bytes,
    "another kind of file": another_kind_of_file,
}


@pytest.mark.parametrize("name", MUTATIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_a_mutated_artifact_is_refused_or_the_same(saved: Path, tmp_path: Path, name: str, seed: int) -> None:
    folder = tmp_path / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    MUTATIONS[name](folder, random.Random(seed))
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        loaded = surgery.load(folder)
    except ArtifactError as error:
        lines = str(error).splitlines()
    else:
        lines = ["loaded"]
        # With checksums that fit, it is a whole artifact of another student.
        if not name.startswith("signed"):
            assert_same(dict(original().state_dict()), dict(loaded.state_dict()))
            assert_same(dict(original().named_buffers()), dict(loaded.named_buffers()))
    assert len(lines) == 1
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
