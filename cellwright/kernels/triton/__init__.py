"""Backend "triton": a cell as kernels for a GPU, from the same program as the loops in C."""
