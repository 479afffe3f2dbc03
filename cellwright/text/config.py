"""The settings of a training: three small frozen dataclasses, filled from a preset file and changed by flags."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from cellwright.cells.init import SCHEMES
from cellwright.errors import SettingError
from cellwright.kernels import BACKENDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"


def setting(
    help: str, choices: tuple[str, ...] = (), low: float | None = None, below: float | None = None, above: bool = False
) -> Any:
    """A field with its reason and its sensible values: `choices`, or `low` (or only `above` it) to `below`."""
    return field(metadata={"help": help, "choices": choices, "low": low, "below": below, "above": above})


@dataclass(frozen=True)
class DataSettings:
    """What is read, and how it becomes tokens."""

    text: tuple[str, ...] = setting("Files of UTF-8 text, or the names time-machine and python-docs.")
    cleaning: str = setting("letters: lower-case letters and single spaces; none: as written.", ("letters", "none"))
    tokens: str = setting("What one token is.", ("char", "byte", "word", "bpe"))
    min_frequency: int = setting("Rarer characters or words become the unknown token.", low=1)
    vocabulary_size: int = setting("Tokens that BPE learns.", low=257)
    max_tokens: int = setting("Read only so many tokens of the text; 0 reads all.", low=0)
    validation: float = setting("Share of the text held out at its end to measure on.", low=0, below=1)


@dataclass(frozen=True)
class ModelSettings:
    """The network between tokens in and predictions out."""

    cell: str = setting("A cell of the library, or path/to/file.py:Class.")
    backend: str = setting("What runs the cell; auto takes the fastest that computes the same.", BACKENDS)
    hidden_size: int = setting("Units of every recurrent layer.", low=1, below=2**20)
    num_layers: int = setting("Recurrent layers on top of each other.", low=1, below=1000)
    bidirectional: bool = setting("Refused here: a language model must not read the future.")
    embedding_size: int = setting("Columns of the learned token vectors; 0 feeds one-hot vectors.", low=0, below=2**20)
    tied: bool = setting("Use the embedding as the output's weights too; both then have the same width.")
    dropout: float = setting("Share of every layer's outputs zeroed in training.", low=0, below=1)
    held_dropout: bool = setting("Hold every dropout mask through time (variational dropout).")
    input_dropout: float = setting("Share of the embedding's outputs zeroed in training.", low=0, below=1)
    init: str = setting("How weights are drawn.", tuple(SCHEMES))


@dataclass(frozen=True)
class TrainingSettings:
    """How the network learns."""

    batches: str = setting(
        "sequential: state carried from batch to batch; random: state reset.", ("sequential", "random")
    )
    batch_size: int = setting("Rows of a batch, over all processes together.", low=1, below=2**31)
    steps: int = setting("Time steps of a batch: how far gradients reach back.", low=1, below=2**31)
    epochs: int = setting("Passes over the training text.", low=1, below=2**31)
    seconds: float = setting("Train for so long instead, however many epochs that makes; 0: by --epochs.", low=0)
    optimizer: str = setting("Which optimizer.", ("adamw", "sgd"))
    learning_rate: float = setting("Largest step size.", low=0, above=True)
    weight_decay: float = setting("Pull of matrices towards zero.", low=0)
    schedule: str = setting("Course of the learning rate.", ("one-cycle", "cosine", "constant"))
    clip: float = setting("Largest global norm of the gradient; 0 does not clip.", low=0)
    average: float = setting(
        "Decay of a running average of the weights, which is then what is kept; 0: none.", low=0, below=1
    )
    patience: int = setting("Stop after so many epochs without a better validation; 0 never does.", low=0)
    seed: int = setting("Seed of every random choice.", low=0, below=2**63)


@dataclass(frozen=True)
class Settings:
    """All settings of a training.

    >>> settings = load_preset("default").replace(epochs=3, cell="gru")
    >>> settings.training.epochs, settings.model.cell
    (3, 'gru')
    """

    data: DataSettings
    model: ModelSettings
    training: TrainingSettings

    def __post_init__(self) -> None:
        for section in dataclasses.fields(self):
            for name, described in section_fields(section.name).items():
                check(name, getattr(getattr(self, section.name), name), described)
        if self.model.bidirectional:
            raise SettingError(
                "a language model reads forward only: a backward direction would see the very token it has to predict",
                "--bidirectional",
                "leave it out; cellwright.Recurrent(cell, bidirectional=True) is for tagging and classifying",
            )
        if self.model.tied and self.model.embedding_size != self.model.hidden_size:
            raise SettingError(
                "tied weights need an embedding as wide as the hidden state",
                f"embedding_size={self.model.embedding_size} and hidden_size={self.model.hidden_size}",
                f"write --embedding-size {self.model.hidden_size}, or leave out --tied",
            )

    def replace(self, **changes: Any) -> Settings:
        """The same settings but for `changes`, each named as in its section."""
        sections = {}
        for section in dataclasses.fields(self):
            mine = {name: changes[name] for name in section_fields(section.name) if name in changes}
            sections[section.name] = dataclasses.replace(getattr(self, section.name), **mine)
        return Settings(**sections)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values, as in a preset file."""
        return dataclasses.asdict(self)


SECTIONS: dict[str, type] = {"data": DataSettings, "model": ModelSettings, "training": TrainingSettings}


def section_fields(section: str) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a section by name."""
    return {described.name: described for described in dataclasses.fields(SECTIONS[section])}


def check(name: str, value: Any, described: dataclasses.Field[Any]) -> None:
    """Refuse a value of the wrong type or range, naming the setting."""
    kind: Any = get_type_hints(_owner(name))[name]
    about = described.metadata
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if name == "text":
        if not (isinstance(value, tuple) and all(isinstance(one, str) for one in value)):
            raise SettingError("text is a list of names or paths", repr(value), 'write text = ["time-machine"], say')
    elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}[kind]
        raise SettingError(f"{name} is {words}", repr(value), f"write {name} as {words}")
    if about["choices"] and value not in about["choices"]:
        raise SettingError(f"{name} is one of {', '.join(about['choices'])}", repr(value), "write one of those")
    if about["low"] is not None and not _within(value, about):
        ends = f"{'above' if about['above'] else 'at least'} {about['low']}"
        ends += f" and below {about['below']}" if about["below"] else ""
        raise SettingError(f"{name} is {ends}", repr(value), f"write --{name.replace('_', '-')} with such a value")


def _within(value: float, about: Mapping[str, Any]) -> bool:
    enough = value > about["low"] if about["above"] else value >= about["low"]
    return enough and value < (about["below"] or float("inf"))


def _owner(name: str) -> type:
    return next(kind for section, kind in SECTIONS.items() if name in section_fields(section))


SINCE: dict[str, Any] = {"seconds": 0.0}  # settings of a training that came later, as they were before


def from_run(values: Any, source: str) -> Settings:
    """As `from_dict`, of a run that may be older than some settings: it did without them."""
    if isinstance(values, Mapping) and isinstance(values.get("training"), Mapping):
        values = {**values, "training": {**SINCE, **values["training"]}}
    return from_dict(values, source)


def from_dict(values: Any, source: str) -> Settings:
    """Settings from sections of plain values; `source` names where they are from.

    Raises:
        SettingError: a section or setting is missing, unknown, or makes no sense.
    """
    sections = {}
    for section, kind in SECTIONS.items():
        given = values.get(section) if isinstance(values, Mapping) else None
        known = set(section_fields(section))
        if not isinstance(given, Mapping) or set(given) != known:
            odd = sorted(known ^ set(given)) if isinstance(given, Mapping) else [f"[{section}]"]
            raise SettingError(
                "settings are the sections data, model and training with every setting once",
                f"{source}, where these are missing or unknown: {', '.join(odd)}",
                "compare it with cellwright/text/presets/default.toml",
            )
        sections[section] = kind(**{name: _plain(value) for name, value in given.items()})
    return Settings(**sections)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def preset_names() -> list[str]:
    """The names of the presets that come with Cellwright."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_preset(name: str) -> Settings:
    """The settings of a preset, or of one's own file of the same form.

    >>> load_preset("d2l").training.steps
    35

    Args:
        name: one of `preset_names()`, or a path that ends in .toml.

    Raises:
        SettingError: no such preset, or the file is not readable as one.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file() or (not name.endswith(".toml") and name not in preset_names()):
        raise SettingError(
            f"a preset is one of {', '.join(preset_names())}, or the path of a .toml file",
            repr(name),
            "write one of those",
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError("a preset is a TOML file", f"{path}: {error}", "mend the file") from error
    return from_dict(values, str(path))
