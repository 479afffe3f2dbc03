"""5. torch.nn modules: any cell over whole sequences, stacked and in both directions."""

from cellwright.layers.dropout import Dropout as Dropout
from cellwright.layers.recurrent import Recurrent as Recurrent
