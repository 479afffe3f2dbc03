"""A tag for every character: a BiLSTM learns what in a line of Python is a name, a word, a number, a string ...

    python examples/tagging.py   # data: Python's own library, tagged by its own tokenizer; under half a minute

A string that began lines above looks like anything else here: no line is tagged with knowledge of the others.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import cellwright as cw

TAGS = ("space", "name", "word", "digit", "string", "operator", "comment")
FILES = ("argparse", "ast", "calendar", "csv", "datetime", "fractions", "heapq", "inspect", "shutil", "textwrap")
KINDS = {tokenize.NUMBER: 3, tokenize.STRING: 4, tokenize.OP: 5, tokenize.COMMENT: 6}


def main(steps: int = 200) -> float:
    """Train on most files, and give the share of wrong tags in the last two."""
    torch.manual_seed(0)
    train = [line for name in FILES[:-2] for line in lines(name)]
    test = [line for name in FILES[-2:] for line in lines(name)]
    model = Tagger(128, 32, 48, len(TAGS))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(steps):
        rows = [train[row] for row in torch.randint(len(train), (32,))]
        loss = nn.functional.cross_entropy(model(pack([x for x, _ in rows])), pack([tag for _, tag in rows]).data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        found = model(pack([x for x, _ in test])).argmax(1)
    wrong = (found != pack([tag for _, tag in test]).data).double().mean().item()
    print(f"{1 - wrong:.1%} of {len(found)} characters are tagged right, after {steps} steps")
    show(model, "        return self.total[1:] + 31  # both")
    return wrong


class Tagger(nn.Module):
    """Embedding, BiLSTM, and a class for every step."""

    def __init__(self, symbols: int, width: int, hidden: int, tags: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.lstm = cw.LSTM(width, hidden, bidirectional=True)
        self.out = nn.Linear(2 * hidden, tags)

    def forward(self, x: PackedSequence) -> Tensor:
        y, _ = self.lstm(x._replace(data=self.embed(x.data)))
        return self.out(y.data)  # (N, tags), packed as x


def pack(rows: list[Tensor]) -> PackedSequence:
    return pack_sequence(rows, enforce_sorted=False)


def encode(line: str) -> Tensor:
    return torch.tensor([min(ord(sign), 127) for sign in line])


def lines(name: str) -> list[tuple[Tensor, Tensor]]:
    """The lines of a module of Python's library without a part in a longer string, and their characters' tags."""
    source = Path(tokenize.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    text = source.splitlines()
    tags, whole = [[0] * len(line) for line in text], [bool(line) for line in text]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (first, start), (last, stop) = token.start, token.end
        if first != last:
            whole[first - 1 : last] = [False] * (last - first + 1)
        elif token.type in KINDS or token.type == tokenize.NAME:
            kind = KINDS.get(token.type, 2 if keyword.iskeyword(token.string) else 1)
            tags[first - 1][start:stop] = [kind] * (stop - start)
    chosen = zip(text, tags, whole, strict=True)
    return [(encode(line), torch.tensor(tag)) for line, tag, fine in chosen if fine]


def show(model: Tagger, line: str) -> None:
    """A line, and below it the first letter of every character's tag."""
    with torch.no_grad():
        found = model(pack([encode(line)])).argmax(1)
    print(line)
    print("".join(" " if tag == 0 else TAGS[tag][0] for tag in found.tolist()))


if __name__ == "__main__":
    main()
