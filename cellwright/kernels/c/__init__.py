"""The C backend: source for a cell, compiled on this machine, loaded and run on torch's threads."""
