"""Pseudocode: a program as text, with the names of the cell's author."""

from __future__ import annotations
