"""What tests of the command line share."""

import pytest

from cellwright.cli import main


@pytest.fixture
def call(capsys):
    """Run the command in this process: exit status, standard output, standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run
