"""Refused: what is raised where the step of a cell cannot become loops."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818
    """This step cannot become loops; the message names the operation, the second argument the line."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{reason}{f' ({where})' if where else ''}")
