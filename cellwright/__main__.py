"""python -m cellwright: the same as the command cellwright."""

from cellwright.cli import main

if __name__ == "__main__":
    main()
