"""The one exception a user is meant to read, and the one place where an error of the system becomes one."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator


class DffError(Exception):
    """Something the user can mend: bad input, a wrong option, a damaged file, a full disk.

    The message is one sentence that names the file or the value, and the remedy. The command line prints it and exits
    with code 2; a notebook shows it as the last line of the traceback.
    """

    def __str__(self) -> str:
        """The sentence; of an error that a worker process handed on, without the traceback that it comes with."""
        return super().__str__().rpartition(f"{__name__}.DffError: ")[2].strip()


_ELSEWHERE = "choose a folder that you may write to"
_REMEDIES = {
    "ENOSPC": "free some disk space", "EDQUOT": "free some of your quota of the disk", "EFBIG": "choose another disk",
    "EACCES": f"{_ELSEWHERE}, or change the permissions", "EPERM": f"{_ELSEWHERE}, or change the permissions",
    "EROFS": _ELSEWHERE, "ENOTDIR": "a file is in the way of a folder, so move it or choose another name",
    "EEXIST": "something else is in the way, so move it or choose another name", "EISDIR": "name a file in that folder",
    "ENOENT": "check the name", "ELOOP": "mend the loop of links", "ENAMETOOLONG": "choose a shorter name",
    "EIO": "check the disk", "ESTALE": "mount the disk again", "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENFILE": "close some programs", "ENOMEM": "free some memory",
}  # fmt: skip
_BY_NUMBER = {getattr(errno, name): remedy for name, remedy in _REMEDIES.items() if hasattr(errno, name)}


def system_error(error: OSError, path: str | os.PathLike | None = None, done: str = "read or written") -> DffError:
    """An error of the operating system as a sentence: which file, the system's own reason, and what helps against that.

    Args:
        error: what the system said.
        path: the file that the user knows; by default the one that the system names.
        done: what cannot be done: "written", say.
    """
    name, number = path or error.filename or "a file", error.errno or 0
    reason = os.strerror(number) if number in _BY_NUMBER else error.strerror or str(error)
    return DffError(f"{name} cannot be {done} ({reason}): {_BY_NUMBER.get(number, 'choose another file')}.")


@contextlib.contextmanager
def system_errors(path: str | os.PathLike | None = None, done: str = "read or written") -> Iterator[None]:
    """Errors of the operating system inside the block leave it as a `DffError`, see `system_error`."""
    try:
        yield
    except OSError as error:
        raise system_error(error, path, done) from error


def as_dff_error(error: Exception) -> DffError | None:
    """Any exception as the sentence that it stands for; None for a bug, which keeps its traceback.

    Libraries in other languages tell an error of the system in words of their own: safetensors by its number, and torch's
    writer without any.
    """
    if isinstance(error, DffError):
        return error
    if isinstance(error, OSError):
        return system_error(error)
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return system_error(OSError(int(number[1]), os.strerror(int(number[1]))))
    if isinstance(error, RuntimeError) and re.search(
        r"PytorchStreamWriter|inline_container.*unexpected pos", str(error)
    ):
        return DffError(
            "a file of weights cannot be written to its end (PyTorch does not say why): free some disk space, or choose "
            "another folder."
        )
    return None
