"""Errors of the operating system become one sentence: the file, the system's own reason, and what helps against that."""

import errno
import os

import pytest
from safetensors import SafetensorError

from dfflib.errors import DffError, as_dff_error, system_error, system_errors


@pytest.mark.parametrize("number, reason, remedy", [
    (errno.ENOSPC, "No space left on device", "free some disk space"), (errno.EDQUOT, "quota", "quota"),
    (errno.EACCES, "Permission denied", "may write to"), (errno.EPERM, "not permitted", "permissions"),
    (errno.EROFS, "Read-only", "may write to"), (errno.ENOTDIR, "Not a directory", "a file is in the way"),
    (errno.EEXIST, "File exists", "in the way"), (errno.ELOOP, "symbolic links", "loop"), (errno.EISDIR, "directory", "name"),
    (errno.ENAMETOOLONG, "too long", "shorter"), (errno.EIO, "Input/output", "disk"), (errno.EMFILE, "open files", "ulimit"),
    (errno.ENOENT, "No such file", "check the name"), (errno.EBADMSG, "message", "another file"),
])  # fmt: skip
def test_every_reason_has_its_remedy(number, reason, remedy):
    told = str(system_error(OSError(number, os.strerror(number), "there.csv"), done="written"))
    assert told.startswith("there.csv cannot be written (") and reason in told and remedy in told and told.endswith(".")
    assert ("disk space" in told) == (number == errno.ENOSPC), "only a full disk wants space"


def test_a_block_names_the_file_that_the_user_knows():
    with (
        pytest.raises(DffError, match=r"^mine.csv cannot be written \(Permission denied\)"),
        system_errors("mine.csv", "written"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", ".dff-1.part")
    with pytest.raises(ZeroDivisionError), system_errors("mine.csv"):
        1 / 0


@pytest.mark.parametrize("error, words", [
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "free some disk space"),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "free some disk space"),
    (RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"), "free some disk space"),
    (OSError("encoder error -2 when writing image file"), "encoder error -2"),
    (DffError("as it is."), "as it is."),
])  # fmt: skip
def test_what_libraries_make_of_them_is_told_too(error, words):
    assert words in str(as_dff_error(error)) and "\n" not in str(as_dff_error(error))


@pytest.mark.parametrize("bug", [RuntimeError("CUDA error"), KeyError("x"), ValueError("bad"), AssertionError()])
def test_a_bug_is_none(bug):
    assert as_dff_error(bug) is None
