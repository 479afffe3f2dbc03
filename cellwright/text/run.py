"""A run: the directory of one training, with its settings, vocabulary, weights and measurements."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellwright.cells import LIBRARY
from cellwright.errors import RunError
from cellwright.text.checkpoint import VERSION, check_tensors, load_checkpoint
from cellwright.text.config import Settings, from_run
from cellwright.text.corpus import KINDS, Corpus
from cellwright.text.files import cannot_write, umask, write_atomically, write_json
from cellwright.text.model import LanguageModel
from cellwright.text.vocabulary import Vocabulary, load_vocabulary


@dataclass(frozen=True)
class Run:
    """A run directory.

    It holds config.json (settings and the checksum of the text), vocabulary.json, model.safetensors (the
    best weights), last.safetensors (what going on needs), metrics.jsonl (a line for each epoch) and
    curves.png.
    """

    path: Path

    @property
    def weights(self) -> Path:
        """The best weights."""
        return self.path / "model.safetensors"

    @property
    def last(self) -> Path:
        """Everything that going on needs."""
        return self.path / "last.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, one line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The picture of the metrics."""
        return self.path / "curves.png"

    def config(self) -> dict[str, Any]:
        """What config.json says.

        Raises:
            RunError: this is no run directory, its file is damaged or of another version.
        """
        path = self.path / "config.json"
        if not path.is_file():
            raise RunError(
                "a run is a directory that cellwright train wrote",
                f"{self.path}, which has no config.json",
                "check the path",
            )
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            version = config["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                "config.json is JSON with a version and settings",
                f"{path}: {type(error).__name__} {error}",
                "restore it from a copy, or train again",
            ) from error
        if version != VERSION:
            raise RunError(
                f"this Cellwright reads runs of version {VERSION}",
                f"version {version!r} in {path}",
                "use the Cellwright that wrote it, or train again",
            )
        return dict(config)

    def settings(self) -> Settings:
        """The settings of the run."""
        return from_run(self.config().get("settings"), str(self.path / "config.json"))

    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the run."""
        self.config()  # that there is a run at all
        return load_vocabulary(self.path / "vocabulary.json", KINDS)

    def model(self, cell: str | None = None, device: torch.device | None = None) -> LanguageModel:
        """The trained model with its best weights, ready to evaluate.

        Args:
            cell: the cell's file, where the run was trained with a cell from a file (see `trusted`).
            device: where it goes (default: the CPU).
        """
        settings = self.settings().replace(**self.trusted(cell))
        tensors, _ = load_checkpoint(self.weights, "model")
        vocabulary = len(self.vocabulary())
        check_model(self.weights, tensors, settings, vocabulary)
        model = LanguageModel(settings.model, vocabulary)
        model.load_state_dict(tensors)
        return model.to(device).eval()

    def trusted(self, cell: str | None) -> dict[str, str]:
        """The cell to use: a run may not by itself make Python run the file it names.

        Raises:
            RunError: the cell is in a file that the user has not named.
        """
        named = self.settings().model.cell
        if cell is None and named not in LIBRARY:
            raise RunError(
                "a cell in a file is code, which runs only if you name it yourself",
                f"{self.path}, trained with the cell {named!r}",
                f"add --cell {named}",
            )
        same = cell is None or ((":" in cell) == (":" in named) and cell.rpartition(":")[2] == named.rpartition(":")[2])
        if not same:  # a file may move and be renamed, a class may not
            raise RunError(
                "a run keeps its cell",
                f"--cell {cell} for {self.path}, trained with {named!r}",
                f"write --cell {named}",
            )
        return {"cell": cell or named}

    def read_metrics(self) -> list[dict[str, Any]]:
        """The measurements of all epochs; a last line that a crash cut short is left out."""
        if not self.metrics.is_file():
            return []
        lines = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                break
        return lines

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append the measurements of an epoch."""
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.metrics, error) from error

    def cut_metrics(self, epochs: int) -> None:
        """Forget measurements of epochs that the last checkpoint has not seen, before they are repeated."""
        kept = [line for line in self.read_metrics() if line.get("epoch", 0) <= epochs]
        write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())


def check_model(path: Path, tensors: Mapping[str, Tensor], settings: Settings, vocabulary_size: int) -> None:
    """Refuse weights that are not of the model of the settings; a forged size costs no memory.

    Raises:
        RunError: naming the first tensor that differs.
    """
    with torch.device("meta"):  # shapes only
        wanted = LanguageModel(settings.model, vocabulary_size).state_dict()
    check_tensors(path, tensors, wanted)


def create_run(path: Path, settings: Settings, corpus: Corpus) -> Run:
    """A new run directory with its settings and vocabulary, which appears all at once.

    Raises:
        RunError: something is there already, or it cannot be written.
    """
    refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        write_config(fresh, settings, corpus)
        corpus.vocabulary.save(fresh / "vocabulary.json")
        fresh.chmod(0o777 & ~umask())
        os.rename(fresh, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Run(path)


def write_config(path: Path, settings: Settings, corpus: Corpus) -> None:
    """Write config.json."""
    config = {"version": VERSION, "settings": settings.to_dict(), "sha256": corpus.sha256}
    write_json(path / "config.json", config)


def refuse_existing(path: Path) -> None:
    """Refuse a path where something is already.

    Raises:
        RunError: naming the ways on.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunError(
            "a new run needs a directory of its own",
            f"{path}, which exists",
            f"name another with --out, or go on with it: cellwright train --resume {path}",
        )


def free_name(text: str, cell: str, parent: Path = Path("runs")) -> Path:
    """A run directory not yet taken, named after the text and the label of the cell."""
    base = f"{Path(text).stem}-{cell}"
    path, count = parent / base, 1
    while path.exists():
        count += 1
        path = parent / f"{base}-{count}"
    return path
