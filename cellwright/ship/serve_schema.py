"""What requests and answers of the HTTP API hold; needs the package fastapi, which brings pydantic."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cellwright.ship.serve_limits import Limits
from cellwright.text.sample import Picker

USUAL = Limits()


class Problem(BaseModel):
    """An error: the rule, what came, what to do instead."""

    rule: str
    came: str
    instead: str


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    run: str | None = Field(None, description="Name of a run; null: the first.", max_length=255)


class Completion(Asked):
    """A prefix to write on from."""

    prefix: str | None = Field(None, description="null: a blank.", max_length=USUAL.text_characters)
    length: Whole = Field(300, description="Tokens to write.", ge=1, le=USUAL.length)
    temperature: float = Field(0.8, description="Below 1 safer, above 1 bolder, 0: the likeliest.", ge=0, le=100)
    top_k: Whole = Field(0, description="Pick among the k likeliest; 0: among all.", ge=0, le=2**31 - 1)
    top_p: float = Field(1.0, description="Pick among the likeliest that together have this.", gt=0, le=1)
    seed: Whole = Field(0, description="Of the picks.", ge=0, le=2**53)  # what JavaScript still counts exactly
    stream: bool = Field(False, description="Answer with server-sent events, one a piece.")

    def picker(self, never: tuple[int, ...]) -> Picker:
        """How the next token is picked."""
        greedy = self.temperature < 1e-3  # below it, scores over the temperature are beyond float32
        return Picker(greedy, 1.0 if greedy else self.temperature, self.top_k, self.top_p, never)


class Completed(BaseModel):
    """What was written."""

    run: str
    prefix: str = Field(description="As the model reads it.")
    text: str
    tokens: int
    ended: str = Field(description="Why: length, time, shutdown or error.")


class Text(Asked):
    """A text to look at."""

    text: str = Field(min_length=1, max_length=USUAL.text_characters)


class Score(BaseModel):
    """How surprising a text is."""

    pieces: list[str] = Field(description="Characters, or words, as the model reads them.")
    bits: list[float | None] = Field(description="Surprise of each; the first has nothing before it.")
    bits_per_character: float | None
    unknown: int = Field(description="Tokens that the vocabulary does not have.")


class Look(Text):
    """A text, and which values of the cell to show."""

    value: str = Field(description="A name from the run's `values`.", max_length=255)
    first_unit: Whole = Field(0, ge=0, le=2**31 - 1)
    units: Whole | None = Field(None, description="How many; null: all from the first on.", ge=1, le=2**31 - 1)


class Activations(BaseModel):
    """One value of the cell, after each piece of the text."""

    value: str
    pieces: list[str]
    first_unit: int
    units: list[list[float]] = Field(description="Of every unit, a number for every piece.")


class ValueAbout(BaseModel):
    name: str
    meaning: str
    units: int


class RunAbout(BaseModel):
    """A served run."""

    name: str
    cell: str
    layers: int
    units: int
    parameters: int
    tokens: str
    vocabulary: int
    letters_only: bool
    bits_per_character: float | None
    values: list[ValueAbout]


class Health(BaseModel):
    status: str
