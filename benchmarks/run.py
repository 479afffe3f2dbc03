"""All benchmarks, one after the other; then the tables of docs/benchmarks.md are written anew.

    python benchmarks/run.py                 # all of them, with what is installed
    python benchmarks/run.py --quick         # tiny shapes, one round: does everything run? writes no tables
    python benchmarks/run.py --only length   # one of them; the tables of the others stay

Every script gets a process of its own; one whose rival is not installed is passed over, and so is said in the
tables. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import describe, peak

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SCRIPTS: dict[str, tuple[str, ...]] = {  # with what has to be installed
    "against_torch_nn": (),
    "layers": (),
    "against_eager_loop": (),
    "library": (),
    "against_onnxruntime": ("onnx", "onnxruntime"),
    "against_jax": ("jax",),
    "memory": (),
    "length": (),
    "first_step": (),
    "against_compile": (),
}
QUICK = ("--shapes", "8,3,5,24", "--rounds", "1")
MARK = "<!-- {}: {}, written by benchmarks/run.py -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="default: all")
    parser.add_argument("--rounds", type=int, help="default: each script's own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of all sides (default: torch's)")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose tables are written")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round, no tables written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    write(given, "machine", machine(given.threads))  # before all others: afterwards the load is our own
    for name in given.only:
        write(given, name, block(name, given))


def write(given: argparse.Namespace, name: str, text: str) -> None:
    """Put a text into the page at once: a run that is ended later keeps what it has."""
    if not given.quick:
        given.page.write_text(put(given.page.read_text(encoding="utf-8"), name, text), encoding="utf-8")
        print(f"{name}: wrote {given.page}", flush=True)


def machine(threads: int) -> str:
    """What everything was measured on, and when, as a list."""
    facts = {
        "date": datetime.date.today().isoformat(),
        **describe(),
        "threads": f"{threads} on every side",
        "peak": f"{peak(threads):.0f} GF/s, float32, measured",
    }
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def block(name: str, given: argparse.Namespace) -> str:
    """What a script found, as a table; or why it did not run."""
    missing = [package for package in SCRIPTS[name] if importlib.util.find_spec(package) is None]
    if missing:
        said = f"Not measured: {' and '.join(missing)} not installed."
        print(f"{name}: {said}", flush=True)
        return said
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(rows), "--threads", str(given.threads)]
        command += QUICK if given.quick else ("--rounds", str(given.rounds)) if given.rounds else ()
        command += ("--shortest", "4") if given.quick and name == "length" else ()
        print(f"{name} ...", flush=True)
        done = subprocess.run(command)
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}; its table stays as it was")
        return table(json.loads(rows.read_text(encoding="utf-8")))


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown under their title, with the date of the measurement."""
    head = rows[0]["head"]
    lines = [head, ["---"] * len(head), *(row["line"] for row in rows)]
    rounds = f"{rows[0]['rounds']} rounds, {rows[0]['threads']} threads, {datetime.date.today().isoformat()}."
    return "\n".join([f"{rows[0]['title']}; {rounds}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def put(page: str, name: str, text: str) -> str:
    """The page with another text between the two marks of a name; ends the run where they are not there."""
    begin, end = (MARK.format(which, name) for which in ("begin", "end"))
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the page needs the lines {begin} and {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


if __name__ == "__main__":
    main()
