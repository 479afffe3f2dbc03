"""Cells drawn at random: modules that run a drawn list of instructions on columns of any widths."""

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 13, 17])
WIDEST = 40  # columns of a value: a drawn list of cats would double for ever

UNARY = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "atan": torch.atan,
    "exp": lambda a: torch.exp(torch.tanh(a)),
    "expm1": lambda a: torch.expm1(torch.tanh(a)),
    "log": lambda a: torch.log(a * a + 0.7),
    "log1p": lambda a: torch.log1p(a * a),
    "sqrt": lambda a: (a * a + 0.3).sqrt(),
    "rsqrt": lambda a: torch.rsqrt(a * a + 0.3),
    "reciprocal": lambda a: torch.reciprocal(a * a + 1.3),
    "pow": lambda a: torch.pow(a * a + 0.4, 1.7),
    "cube": lambda a: torch.tanh(a) ** 3,
    "neg": torch.neg,
    "softplus": functional.softplus,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "elu": lambda a: functional.elu(a + 0.0137),
    "logsigmoid": functional.logsigmoid,
    "softsign": lambda a: functional.softsign(a + 0.0171),
    "hardtanh": lambda a: functional.hardtanh(a, -0.413, 0.379),
    "clamp": lambda a: a.clamp(max=0.291),
    "leaky": lambda a: functional.leaky_relu(a + 0.0123, 0.2),
    "floor": lambda a: torch.floor(3.1 * torch.tanh(a) + 0.123) * 0.1 + a,
    "ceil": lambda a: torch.ceil(3.1 * torch.tanh(a) + 0.123) * 0.1 + a,
    "round": lambda a: torch.round(3.1 * torch.tanh(a) + 0.123) * 0.1 + a,
    "trunc": lambda a: torch.trunc(3.1 * torch.tanh(a) + 0.123) * 0.1 + a,
    "detach": lambda a: a.detach() * 0.3 + a,
}
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda a, b: a / (b * b + 0.8),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "gate": lambda a, b: torch.sigmoid(b) * a + (1 - torch.sigmoid(b)) * b,
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "logaddexp": torch.logaddexp,
    "hypot": lambda a, b: (a * a + b * b + 0.1).sqrt(),
}
CHOICES = {  # of a, b and a vector drawn apart from both, so that nothing sits on a kink
    "where": lambda a, b, v: torch.where(a > v, a, b),
    "minimum": lambda a, b, v: torch.minimum(a, b + v),
    "maximum": lambda a, b, v: torch.maximum(a + v, b),
    "masked_fill": lambda a, b, v: (a * b).masked_fill(a < v, 0.2),
    "abs": lambda a, b, v: (a + v).abs() * b,
    "relu": lambda a, b, v: torch.relu(a * b + v),
    "le": lambda a, b, v: (a <= v).to(a.dtype) * b,
    "and": lambda a, b, v: torch.where((a > v) & (a * a < 0.5137), a, b),
    "not": lambda a, b, v: torch.where(torch.logical_not(a > v), a, b).masked_fill((a > v) == (b > v), 0.1),
    "ne": lambda a, b, v: torch.where((a > v) != (b > v), a, b),
    "sign": lambda a, b, v: torch.sign(a + v) * b,
}
OVER = {
    "sum": lambda a, v: a.sum(1, keepdim=True) * 0.2,
    "mean": lambda a, v: a.mean(-1, keepdim=True),
    "amax": lambda a, v: (a + v).amax(1, keepdim=True),
    "amin": lambda a, v: (a + v).amin(1, keepdim=True),
    "logsumexp": lambda a, v: a.logsumexp(1, keepdim=True),
    "var": lambda a, v: torch.cat([a, a * v], 1).var(1, keepdim=True),
    "norm": lambda a, v: a / (a.norm(dim=1, keepdim=True) + 0.5 + v[0].abs()),
    "dot": lambda a, v: (a * v).sum(1).unsqueeze(1),
    "centre": lambda a, v: a - a.mean(1, keepdim=True),
    "layer_norm": lambda a, v: functional.layer_norm(a + v, a.shape[1:], v, v, 0.1),
    "rms": lambda a, v: a * torch.rsqrt((a * a).mean(1, keepdim=True) + 0.1) * v,
    "softmax": lambda a, v: torch.softmax(a + v, 1),
    "log_softmax": lambda a, v: torch.log_softmax(a, -1) * v,
    "cumsum": lambda a, v: torch.cumsum(a, 1) * 0.3,
}
MOVES = {
    "flip": lambda a: a.flip(1),
    "roll": lambda a: a.roll(1, 1),
    "strided": lambda a: a[:, ::2],
    "first": lambda a: a[:, : (a.shape[1] + 1) // 2],
    "last": lambda a: a[:, a.shape[1] // 2 :],
    "one": lambda a: a[:, -1:],
    "pad": lambda a: functional.pad(a, (1, 2)),
    "shift": lambda a: functional.pad(a[:, :-1], (1, 0)) + a,
    "repeat": lambda a: a.repeat(1, 2),
    "interleave": lambda a: torch.stack([a, a * a], 2).flatten(1),
    "halves": lambda a: torch.cat(a.chunk(2, 1)[::-1], 1),
    "groups": lambda a: a[:, : a.shape[1] // 2 * 2].reshape(len(a), 2, -1).sum(1) if a.shape[1] > 1 else a,
    "turned": lambda a: (
        a[:, : a.shape[1] // 2 * 2].view(len(a), -1, 2).transpose(1, 2).flatten(1) if a.shape[1] > 1 else a
    ),
}
TWO = {"cat": lambda a, b: torch.cat([a, b], 1), "outer": lambda a, b: (a[:, :4, None] * b[:, None, :3]).flatten(1)}
WRITES = {"column": slice(0, 1), "rest": slice(1, None), "even": slice(0, None, 2)}

PLACE = st.integers(0, 30)
INSTRUCTION = st.one_of(
    st.tuples(st.just("linear"), PLACE, WIDTHS),
    st.tuples(st.just("linear"), PLACE, WIDTHS),
    st.tuples(st.just("both"), PLACE, PLACE),
    st.tuples(st.just("unary"), st.sampled_from(sorted(UNARY)), PLACE),
    st.tuples(st.just("binary"), st.sampled_from(sorted(BINARY)), PLACE, PLACE),
    st.tuples(st.just("choice"), st.sampled_from(sorted(CHOICES)), PLACE, PLACE),
    st.tuples(st.just("over"), st.sampled_from(sorted(OVER)), PLACE),
    st.tuples(st.just("move"), st.sampled_from(sorted(MOVES)), PLACE),
    st.tuples(st.just("two"), st.sampled_from(sorted(TWO)), PLACE, PLACE),
    st.tuples(st.just("vector"), st.sampled_from(["add", "mul"]), PLACE),
    st.tuples(st.just("write"), st.sampled_from(sorted(WRITES)), PLACE, PLACE),
)
PROGRAM = st.lists(INSTRUCTION, min_size=1, max_size=14)


class RandomCell(nn.Module):
    """What a drawn list of instructions computes from x and its states; returns (output, states)."""

    def __init__(self, inputs: int, widths: list[int], program: list[tuple], has_output: bool) -> None:
        super().__init__()
        self.input_size, self.widths, self.program, self.has_output = inputs, tuple(widths), program, has_output
        self.output_size = widths[0]
        self.weights = nn.ParameterDict()
        state = [torch.zeros(2, width) for width in widths]
        with torch.no_grad():
            result = self(torch.zeros(2, inputs), state[0] if len(state) == 1 else tuple(state))
        self.output_size = result[0].shape[1] if has_output else widths[0]
        self.double()

    def weight(self, *shape: int) -> Tensor:
        """The next parameter: made at the first run, found again later."""
        name = f"w{self.count}"
        self.count += 1
        if name not in self.weights:
            scale = 1 / shape[0] ** 0.5 if len(shape) == 2 else 0.4
            self.weights[name] = nn.Parameter(torch.randn(shape) * scale)
        return self.weights[name]

    def fit(self, a: Tensor, width: int) -> Tensor:
        """A value as wide as another, or of one column, which is broadcast."""
        return a[:, :width] if a.shape[1] >= width else a[:, :1]

    def run(self, kind: str, values: list[Tensor], *rest) -> Tensor:
        taken = [values[-1 - place % len(values)] for place in rest if isinstance(place, int)]
        a, b = taken[0], taken[-1]
        if kind == "linear":
            return taken[0] @ self.weight(a.shape[1], rest[1]) + self.weight(rest[1])
        if kind == "both":  # two products, added
            return a @ self.weight(a.shape[1], 6) + b @ self.weight(b.shape[1], 6)
        if kind == "unary":
            return UNARY[rest[0]](a)
        if kind == "binary":
            return BINARY[rest[0]](a, self.fit(b, a.shape[1]))
        if kind == "choice":
            return CHOICES[rest[0]](a, self.fit(b, a.shape[1]), self.weight(a.shape[1]))
        if kind == "over":
            return OVER[rest[0]](a, self.weight(a.shape[1]))
        if kind == "move":
            return MOVES[rest[0]](a)
        if kind == "two":
            return TWO[rest[0]](a, b)
        if kind == "vector":
            return getattr(torch, rest[0])(a, self.weight(a.shape[1]))
        copy = a.clone()
        copy[:, WRITES[rest[0]]] = self.fit(b, 1) * 0.5
        return copy

    def forward(self, x: Tensor, state: Tensor | tuple[Tensor, ...]):
        self.__dict__["count"] = 0
        states = list(state) if isinstance(state, tuple) else [state]
        values = [x, *states]
        for kind, *rest in self.program:
            made = self.run(kind, values, *rest)
            values.append(made if made.shape[1] <= WIDEST else made[:, :WIDEST])
        fresh = []
        for place, old in enumerate(states):
            value = values[-1 - place % len(values)]
            if value.shape[1] != old.shape[1]:
                value = value @ self.weight(value.shape[1], old.shape[1])
            fresh.append(torch.tanh(value + 0.5 * old))
        new = fresh[0] if len(fresh) == 1 else tuple(fresh)
        return (torch.tanh(values[-1]), new) if self.has_output else new

    def extra_repr(self) -> str:
        return f"{self.input_size}, {list(self.widths)}, {self.program}, {self.has_output}"
