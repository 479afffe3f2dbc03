"""5. torch.nn modules: any cell over whole sequences, stacked and in both directions; torch.nn's own by name."""

from cellwright.layers.dropout import Dropout as Dropout
from cellwright.layers.recurrent import Recurrent as Recurrent
from cellwright.layers.standard import GRU as GRU
from cellwright.layers.standard import LSTM as LSTM
from cellwright.layers.standard import RNN as RNN
from cellwright.layers.stream import Stream as Stream
from cellwright.layers.truncated import detached as detached
from cellwright.layers.truncated import truncated as truncated
from cellwright.layers.weights import from_keras as from_keras
from cellwright.layers.weights import from_torch as from_torch
from cellwright.layers.weights import to_keras as to_keras
from cellwright.layers.weights import to_torch as to_torch
