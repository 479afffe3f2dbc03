"""Compile the kernels of a cell for a GPU that is not there, and print what each takes of it, as JSON lines.

    python -m tests.gpu.compile_for CELL TYPE B I H

A layer runs forward and backward on the CPU, laid out as for a GPU of 132 processors (an H100 or H200); every launch
compiles for compute capability 9.0 what it would run, and runs nothing.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import cellwright as cw
from cellwright.cells import LIBRARY
from cellwright.kernels.triton import run
from cellwright.kernels.triton.tiles import Machine

HOPPER = GPUTarget("cuda", 90, 32)
PROCESSORS = 132
NAMES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Compiled:
    """In the place of a kernel: compiles for what it is called with, and says what that takes."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.compile

    def compile(self, **given):
        names = self.kernel.arg_names
        options = {name: value for name, value in given.items() if name not in names}
        signature = {name: self.type_of(name, given[name]) for name in names}
        constants = {(at,): given[name] for at, name in enumerate(names) if signature[name] == "constexpr"}
        aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name][0] == "*"}
        source = ASTSource(self.kernel, signature, constants, aligned)
        made = triton.compile(source, target=HOPPER, options=options)
        print(
            json.dumps({"kernel": self.kernel.__name__, "persistent": given["PASS"] == -1, **usage(made)}), flush=True
        )

    def type_of(self, name, value):
        if isinstance(value, torch.Tensor):
            return NAMES[value.dtype]
        return "i32" if name in ("B", "T", "ROWS", "first", "last") else "constexpr"


def usage(made):
    """Registers and bytes of stack of a thread, bytes of shared memory of a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        told = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr).groups()
    return {"registers": int(registers), "stack": int(stack), "shared": made.metadata.shared}


def main(name, dtype, *sizes):
    rows, inputs, hidden = map(int, sizes)
    run.machine = lambda device: Machine(PROCESSORS, persistent=True)
    made = run.module
    run.module = lambda text: types.SimpleNamespace(
        **{key: Compiled(kernel) for key, kernel in vars(made(text)).items() if hasattr(kernel, "arg_names")}
    )
    importlib.import_module("cellwright.kernels.choose").lacking = lambda device: None
    layer = cw.Recurrent(LIBRARY[name](inputs, hidden), backend="triton").to(getattr(torch, dtype))
    x = torch.randn(2, rows, inputs, dtype=getattr(torch, dtype), requires_grad=True)
    layer(x)[0].sum().backward()


if __name__ == "__main__":
    main(*sys.argv[1:])
