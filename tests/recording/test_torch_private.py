"""A release of PyTorch that has taken something away is named in one line."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.utils import _device

from surgery.recording import torch_private


def test_a_missing_name_is_told_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_device, "_device_constructors")
    spec = importlib.util.spec_from_file_location("copy_of_torch_private", torch_private.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=rf"PyTorch {torch.__version__.split('+')[0]}.*_device_constructors"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
