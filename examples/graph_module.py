"""The tutorials' first graph of modules, z = x1 + x2 * linear(x3): built, run, its parameters listed, drawn, and
checked by hand: python examples/graph_module.py
"""

import torch
from torch import nn

import cellwright as cw
from cellwright.probe import draw


class Graph(nn.Module):
    """z = x1 + x2 * linear(x3)"""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x1, x2, x3):
        z = x1 + x2 * self.linear(x3)
        return z


def by_hand(graph, x1, x2, x3):
    """The same from the listed parameters, with nothing but Python's numbers."""
    weight, bias = graph.linear.weight.tolist(), graph.linear.bias.tolist()
    linear = [sum(weight[j][k] * x3[k] for k in range(len(x3))) + bias[j] for j in range(len(bias))]
    return [x1[j] + x2[j] * linear[j] for j in range(len(bias))]


def main():
    torch.manual_seed(0)
    graph = Graph()
    x1, x2, x3 = torch.randn(1, 2), torch.randn(1, 2), torch.randn(1, 4)
    z = graph(x1, x2, x3)
    z.sum().backward()
    print(cw.parameter_table(graph))  # 4 * 2 + 2 = 10 numbers, and how strongly z depends on them
    print()
    print(draw(graph, x1=2, x2=2, x3=4))
    print(draw(graph, x1=2, x2=2, x3=4).mermaid())
    hand = by_hand(graph, *(x[0].tolist() for x in (x1, x2, x3)))
    print("\nby the module:", z.tolist()[0], "\nby hand:      ", hand)
    return max(abs(one - other) for one, other in zip(z.tolist()[0], hand, strict=True))


if __name__ == "__main__":
    main()
