"""9. The command cellwright: parses, calls, prints; nothing else."""

from cellwright.cli.main import app as app
from cellwright.cli.main import main as main
