"""Target: what backend "triton" needs, and how it is reached where the package triton is installed."""

from __future__ import annotations

import importlib
import importlib.util
import os

import torch

from cellwright.kernels.function import Fused
from cellwright.kernels.fuse import Target
from cellwright.program import Program


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU, as its own switch says."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def lacking(device: torch.device) -> str | None:
    """Why kernels cannot run on a device, in words."""
    if device.type == "cuda" or (device.type == "cpu" and interpreted()):
        return None
    return f"kernels for a GPU do not run on {device.type}; Triton's interpreter does that, with TRITON_INTERPRET=1"


def _missing() -> str | None:
    return None if importlib.util.find_spec("triton") else "the package triton is not installed: pip install triton"


def _make(program: Program, title: str) -> Fused:
    made: Fused = importlib.import_module("cellwright.kernels.triton.run").Launched(
        program, title
    )  # triton is optional
    return made


TRITON = Target("triton", (torch.float32, torch.float64, torch.bfloat16, torch.float16), _missing, _make)
