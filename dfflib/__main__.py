"""``python -m dfflib`` is the ``dfflib`` command."""

from dfflib.cli import main

if __name__ == "__main__":
    main(prog_name="dfflib")
