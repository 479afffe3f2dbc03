"""Kernels compiled for a GPU that need not be there: all steps in one launch, nothing spilled, room on the chip."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

ON_CHIP = 227 * 1024  # bytes of shared memory that a program of an H100 or H200 can have
SIZES = [
    ("lstm", "bfloat16", 64, 1024, 1024),
    ("gru-reset-before", "float16", 64, 512, 512),
    ("gru", "float32", 32, 28, 256),
]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size)))
def test_the_steps_are_one_launch_that_spills_nothing(size):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.gpu.compile_for", *map(str, size)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not told.returncode, told.stderr
    kernels = {one["kernel"]: one for one in map(json.loads, told.stdout.splitlines())}
    for stage in ("forward", "backward"):
        assert kernels[stage]["persistent"]
        assert kernels[stage]["stack"] == 0
        assert 0 < kernels[stage]["shared"] <= ON_CHIP
