"""The one exception a user is meant to read."""


class DffError(Exception):
    """Something the user can mend: bad input, a wrong option, a damaged file.

    The message is one sentence that names the file or the value, and the remedy. The command line prints it and exits
    with code 2; a notebook shows it as the last line of the traceback.
    """

    def __str__(self) -> str:
        """The sentence; of an error that a worker process handed on, without the traceback that it comes with."""
        return super().__str__().rpartition(f"{__name__}.DffError: ")[2].strip()
