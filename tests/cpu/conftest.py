"""What is compiled in most tests runs for a moment only: it is compiled quickly, but where it is the thing tested."""

import os

import pytest

from cellwright.kernels.c import buffers

AS_SHIPPED = {"test_build", "test_contract", "test_fused", "test_openmp", "test_vector", "test_fused_compiling"}


@pytest.fixture(autouse=True)
def compiled_quickly(request, monkeypatch):
    """Less optimisation, half the time of the compiler."""
    if request.module.__name__.rpartition(".")[2] not in AS_SHIPPED:
        monkeypatch.setenv("CELLWRIGHT_CFLAGS", f"-O1 {os.environ.get('CELLWRIGHT_CFLAGS', '')}")


@pytest.fixture(autouse=True)
def columns_shared_by_small_cells(monkeypatch):
    """The cells of tests are small, and would never share columns: they do where a thread has less than 6 rows."""
    monkeypatch.setattr(buffers, "SHARED", (*buffers.SHARED, (-1, 5.5)))
    thirds = {back: (*table, (-1, 5.5)) for back, table in buffers.SHARED_THIRDS.items()}
    monkeypatch.setattr(buffers, "SHARED_THIRDS", thirds)


@pytest.fixture(autouse=True)
def products_of_small_cells_in_thirds(monkeypatch):
    """They would fill blocks with zeros for the most part: they do, where there are at least 3 rows."""
    monkeypatch.setattr(buffers, "THIRDS_ROWS", ((0, 3),))
    monkeypatch.setattr(buffers, "THIRDS_WASTE", 1000)
