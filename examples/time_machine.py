"""RNN, GRU (both forms) and LSTM as language models, from scratch and concise, trained alike from the same weights:
python examples/time_machine.py [TEXT] [EPOCHS] [UNITS] [sequential|random] [one-hot|embedding]
"""

import math
import sys
import time

import torch
from torch import nn

import cellwright as cw
from cellwright.text.batches import Batches
from cellwright.text.reading import read
from cellwright.text.sources import find_sources
from cellwright.text.vocabulary import CharVocabulary

T, B, WIDTH, RATE, CLIP, TOKENS = 35, 32, 32, 1.0, 1.0, 10_000


def total(w, gate, x, h):
    """x W_x + h W_h + b of a gate."""
    return x @ w[f"W_x{gate}"] + h @ w[f"W_h{gate}"] + w[f"b_{gate}"]


def rnn(w, x, h):
    return (torch.tanh(total(w, "h", x, h)),)


def gru_before(w, x, h):
    r, z = torch.sigmoid(total(w, "r", x, h)), torch.sigmoid(total(w, "z", x, h))
    n = torch.tanh(total(w, "n", x, r * h))
    return (z * h + (1 - z) * n,)


def gru_after(w, x, h):
    r, z = torch.sigmoid(total(w, "r", x, h)), torch.sigmoid(total(w, "z", x, h))
    n = torch.tanh(x @ w["W_xn"] + w["b_n"] + r * (h @ w["W_hn"] + w["b_hn"]))
    return (z * h + (1 - z) * n,)


def lstm(w, x, h, c):
    i, f, o = (torch.sigmoid(total(w, gate, x, h)) for gate in "ifo")
    g = torch.tanh(total(w, "g", x, h))
    c = f * c + i * g
    return o * torch.tanh(c), c


# Name: the equations, their gates, their states, and the same of the library.
MODELS = {
    "RNN": (rnn, "h", 1, cw.cells.RNN),
    "GRU, reset before": (gru_before, "rzn", 1, lambda I, H: cw.cells.GRU(I, H, reset_after=False)),
    "GRU, reset after": (gru_after, "rzn", 1, cw.cells.GRU),
    "LSTM": (lstm, "ifog", 2, cw.cells.LSTM),
}


class Scratch:
    """A language model of nothing but tensors and a loop."""

    def __init__(self, step, gates, states, words, units, embedding):
        self.step, self.states, self.units = step, states, units
        width = WIDTH if embedding else words
        shapes = {f"W_x{gate}": (width, units) for gate in gates} | {f"W_h{gate}": (units, units) for gate in gates}
        shapes |= {"W_q": (units, words)} | ({"W_e": (words, width)} if embedding else {})
        biases = (
            {f"b_{gate}": units for gate in gates} | {"b_q": words} | ({"b_hn": units} if step is gru_after else {})
        )
        self.w = {name: torch.randn(shape) * 0.01 for name, shape in shapes.items()}
        self.w |= {name: torch.zeros(size) for name, size in biases.items()}
        for weight in self.w.values():
            weight.requires_grad_()

    def parameters(self):
        return list(self.w.values())

    def __call__(self, tokens, state=None):
        """Scores (T, B, V) of what follows each of the tokens (T, B), and the state after them."""
        one_hot = torch.eye(len(self.w["b_q"]))[tokens]  # (T, B, V)
        inputs = one_hot @ self.w["W_e"] if "W_e" in self.w else one_hot  # (T, B, E or V)
        state = state or (torch.zeros(tokens.shape[1], self.units),) * self.states  # (B, H) each
        scores = []
        for x in inputs:
            state = self.step(self.w, x, *state)
            scores.append(state[0] @ self.w["W_q"] + self.w["b_q"])  # (B, V)
        return torch.stack(scores), state


class Concise(nn.Module):
    """The same with a layer."""

    def __init__(self, cell, words, units, embedding):
        super().__init__()
        self.words = words
        self.embed = nn.Embedding(words, WIDTH) if embedding else None
        self.recurrent = cw.Recurrent(cell(WIDTH if embedding else words, units))
        self.output = nn.Linear(units, words)

    def forward(self, tokens, state=None):
        x = self.embed(tokens) if self.embed else nn.functional.one_hot(tokens, self.words).float()
        y, state = self.recurrent(x, state)
        return self.output(y), state

    def pairs(self, w):
        """Every weight with the one that it is in the model from scratch."""
        yield from ((weight, w[name]) for name, weight in self.recurrent.cells[0].named_parameters())
        yield from ((self.output.weight, w["W_q"].T), (self.output.bias, w["b_q"]))
        yield from [(self.embed.weight, w["W_e"])] if self.embed else []

    @torch.no_grad()
    def begin_like(self, w):
        """Take over the weights of the model from scratch."""
        for weight, known in self.pairs(w):
            weight.copy_(known)
        return self

    def gap(self, w):
        """How far the weights are from those of the model from scratch, as a share of the largest."""
        return max(((weight - known).abs().max() / known.abs().max()).item() for weight, known in self.pairs(w))


@torch.no_grad()
def clip(weights, most):
    """Scale all gradients so that together they are no longer than `most`."""
    norm = math.sqrt(sum(weight.grad.square().sum().item() for weight in weights))
    for weight in weights:
        weight.grad *= min(1.0, most / norm)


@torch.no_grad()
def descend(weights, rate):
    """A step of gradient descent; the gradients are gone."""
    for weight in weights:
        weight -= rate * weight.grad
        weight.grad = None


def train(model, batches, epochs):
    """Perplexity on the training text in the last epoch, and tokens per second over all."""
    model(torch.zeros(1, 1, dtype=torch.long))  # a layer is compiled at its first call
    began, perplexity = time.perf_counter(), math.inf
    for epoch in range(epochs):
        losses, state = [], None
        for x, y in batches.epoch(epoch):  # both (T, B)
            scores, state = model(x, state if batches.carries_state else None)
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())
            loss.backward()
            clip(list(model.parameters()), CLIP)
            descend(list(model.parameters()), RATE)
            state = tuple(one.detach() for one in state) if isinstance(state, tuple) else state.detach()
            losses.append(loss.item())
        perplexity = math.exp(sum(losses) / len(losses))
    return perplexity, epochs * len(batches) * B * T / (time.perf_counter() - began)


@torch.no_grad()
def predict(model, vocabulary, prefix, length):
    """The prefix, and the likeliest letters after it."""
    ids = [int(one) for one in vocabulary.ids(prefix)]
    scores, state = model(torch.tensor(ids).unsqueeze(1))
    for _ in range(length):
        ids.append(int(scores[-1, 0].argmax()))
        scores, state = model(torch.tensor([[ids[-1]]]), state)
    return vocabulary.decode(ids)


def main(text="python-docs", epochs="2", units="32", order="sequential", inputs="one-hot"):
    letters = "".join(read(find_sources([text]), "letters"))
    vocabulary = CharVocabulary.build([letters])
    batches = Batches(vocabulary.ids(letters)[:TOKENS], B, T, order, seed=0)
    print(f"{len(letters):,} letters of {text}, {len(vocabulary)} tokens, {len(batches)} batches of {B} x {T}, {order}")
    worst, embedding = 0.0, inputs == "embedding"
    for name, (step, gates, states, cell) in MODELS.items():
        torch.manual_seed(0)
        scratch = Scratch(step, gates, states, len(vocabulary), int(units), embedding)
        concise = Concise(cell, len(vocabulary), int(units), embedding).begin_like(scratch.w)
        (one, slow), (other, fast) = (train(model, batches, int(epochs)) for model in (scratch, concise))
        print(f"{name}: perplexity {one:.4f} from scratch, {other:.4f} concise; {slow:,.0f} and {fast:,.0f} tokens/s")
        print("   ", predict(concise, vocabulary, "time traveller", 50))
        worst = max(worst, abs(one - other) / one, concise.gap(scratch.w))
    return worst


if __name__ == "__main__":
    main(*sys.argv[1:])
