"""Every setting as a flag of the command line, so that presets, flags and help have one source."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Optional, get_type_hints

import typer

from cellwright.text.config import SECTIONS, load_preset, section_fields


def with_settings(command: Callable[..., None], leave_out: tuple[str, ...] = ()) -> Callable[..., None]:
    """The command with one more flag for each setting, so that presets, flags and documents have one source."""
    signature, usual = inspect.signature(command), load_preset("default")
    flags = [
        _flag(section, described, getattr(getattr(usual, section), name))
        for section in SECTIONS
        for name, described in section_fields(section).items()
        if name not in leave_out
    ]
    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    parameters = own + flags
    command.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _flag(section: str, described: dataclasses.Field[Any], usual: Any) -> inspect.Parameter:
    kind: Any = get_type_hints(SECTIONS[section])[described.name]
    flag = f"--{described.name.replace('_', '-')}"
    flag = f"{flag}/--no{flag[1:]}" if kind is bool else flag
    choices = described.metadata["choices"]
    words = described.metadata["help"] + (f" One of {', '.join(choices)}." if choices else "")
    panel = f"{section.capitalize()} (each overrides the preset; shown is what the default preset says)"
    usual = " ".join(usual) if described.name == "text" else usual
    option = typer.Option(flag, help=words, rich_help_panel=panel, show_default=str(usual))
    value = list[str] if described.name == "text" else kind
    annotation = Annotated[Optional[value], option]  # type: ignore[valid-type]
    return inspect.Parameter(described.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def join_numbers(arguments: list[str], flag: str) -> list[str]:
    """The arguments with all numbers after a flag as one, with commas.

    >>> join_numbers(["--lengths", "50", "100", "rnn"], "--lengths")
    ['--lengths', '50,100', 'rnn']
    """
    joined: list[str] = []
    for word in arguments:
        if word.replace(",", "").isdecimal() and len(joined) > 1 and joined[-2] == flag:
            joined[-1] = f"{joined[-1]},{word}"
        else:
            joined.append(word)
    return joined


def changes(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given as flags."""
    given = {name: value for name, value in settings.items() if value is not None}
    if "text" in given:
        given["text"] = tuple(given["text"])
    return given
