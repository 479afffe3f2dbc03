"""The library's cells once more, in plain NumPy from the papers' formulas: what the first transcription is held to.

Each is a function `cell(p, x, *states)` of its parameters and buffers p by name, x (B, I) and states (B, H); it
returns the new states in their order, after one output more where the output is none of them.
"""

from tests.cpu.oracles import gru, light, lstm, oscillators, rnn, searched, typed

ORACLES = {
    name: cell
    for group in (rnn, gru, lstm, light, typed, searched, oscillators)
    for name, cell in group.ORACLES.items()
}
