"""Where things lie: the folders of the workbook, found from this file and never from the working directory.

A wheel carries, in ``dfflib/shipped``, the checkpoint of ``dfflib segment`` and the published numbers (``setup.py`` puts
them there). Installed from one, the library knows of no checkout, and the working directory takes its place.
"""

import contextlib
import errno
import hashlib
import os
import platform
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from dfflib.errors import DffError, system_error, system_errors

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "shipped"
INSTALLED = _SHIPPED.is_dir()
"""Is this a package by itself, and not part of a checkout (``pip install -e .``, as the two README commands do)?"""

ROOT = Path() if INSTALLED else _PACKAGE.parent
"""The checkout; without one, the working directory of the moment."""

NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
CHECKPOINTS = (_SHIPPED if INSTALLED else DATA) / "checkpoints"
PUBLISHED = (_SHIPPED if INSTALLED else DATA) / "published"
FIGURES = ROOT / "figures"
RUNS = ROOT / "runs"


_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
STALE = 24 * 3600  # seconds without a byte, after which a temporary file of another machine is nobody's
_PROBE = bytes(64 * 1024)  # more than a full disk takes in the blocks that it has begun


def need_checkout(what: str) -> None:
    """Refuse what only a checkout can do.

    Args:
        what: cannot be done without its notebooks, figures and checkpoints.

    Raises:
        DffError: dfflib was installed without a checkout.
    """
    if INSTALLED:
        raise DffError(
            f"{what} needs a checkout of the workbook, and this dfflib was installed without one: clone its repository, and "
            "use the .venv/bin/dfflib that `make reproduce` installs there."
        )


def run_folder(profile: str, out_dir: str | os.PathLike = "") -> Path:
    """The folder of a run, not created: ``out_dir`` if given, else ``runs/<profile>``.

    Raises:
        DffError: it is the checkout, a folder of it outside ``runs``, or one that holds the checkout: a run writes folders
            named notebooks, figures and checkpoints, and would write over those of the workbook.
    """
    folder = Path(os.path.realpath(out_dir if str(out_dir) else RUNS / profile))
    at_home = NOTEBOOKS.is_dir() and _is_same(
        ROOT / "dfflib", Path(__file__).parent
    )  # else there is nothing to protect
    if at_home and (_contains(folder, ROOT) or _contains(ROOT, folder)) and not _contains(RUNS, folder):
        raise DffError(
            f"{folder} cannot be the run folder: it belongs to the workbook, so name another with --out-dir."
        )
    return folder


def run_dir(profile: str, out_dir: str | os.PathLike = "") -> Path:
    """The folder that a run writes to, see `run_folder`. Created when missing, and proven to take files.

    Raises:
        DffError: there can be no such folder, or nothing can be written in it.
    """
    folder = run_folder(profile, out_dir)
    try:
        require_writable(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sentence = str(system_error(error, folder, "the run folder")).rstrip(".")
        raise DffError(f"{sentence}, or name another with --out-dir.") from error
    for name in ("", "checkpoints", "figures", "html", "notebooks", "results", "state", "train"):
        _sweep(folder / name)
    return folder


def output_file(
    path: str | os.PathLike, inputs: Iterable[str | os.PathLike] = (), suffixes: Iterable[str] = (), force: bool = True
) -> Path:
    """A file that a command is to write, checked before its work begins.

    Args:
        path: of the file; its folder may be missing.
        inputs: files and folders that the command reads.
        suffixes: in lower case, one of which the name ends in; none allows any.
        force: whether a file that is there already may be replaced.

    Raises:
        DffError: it is an input, by whatever name or link, or a folder, or it is there already; it has another suffix; or
            it cannot be written there.
    """
    path, suffixes = Path(os.path.expanduser(path)), tuple(suffixes)
    with system_errors(path, "written"):
        if path.is_dir():
            example = path / f"out{suffixes[0] if suffixes else ''}"
            raise DffError(f"{path} is a folder: give the name of a file in it, such as {example}.")
        if suffixes and path.suffix.lower() not in suffixes:
            raise DffError(f"{path} has no name for what is written: let it end in {', '.join(suffixes)}.")
        if _exists(path):
            for source in map(Path, inputs):
                if any(_is_same(path, one) for one in (source, *_frames(source, suffixes))):
                    raise DffError(f"{path} is an input of the same command ({source}): name another file with --out.")
            if not force:
                raise DffError(f"{path} exists already: add --force to overwrite it, or name another file with --out.")
        require_writable(path.parent)
    _sweep(path.parent)
    return path


def _frames(source: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """What a folder may be read for: its files but for those that are called like an output, earlier ones perhaps."""
    with contextlib.suppress(OSError):
        return [file for file in source.iterdir() if file.suffix.lower() not in suffixes]
    return []


def _contains(folder: Path, path: Path) -> bool:
    """Whether a path is a folder or lies in it, however the two are spelled (links, ``..``, upper and lower case)."""
    folder, path = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return any(place == folder or _is_same(folder, place) for place in (path, *path.parents))


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def _exists(path: Path) -> bool:
    """Whether something is there; unlike ``Path.exists`` it does not take a loop of links or an endless name for nothing."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def require_writable(folder: str | os.PathLike) -> None:
    """Prove that files can be written in a folder, or in the nearest one above it that exists, by writing one.

    Raises:
        OSError: they cannot, for the reason that it names.
    """
    folder = Path.cwd() / folder
    while not _exists(folder):
        if folder.is_symlink():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        folder = folder.parent
    probe = temporary(folder / "probe")
    try:
        probe.write_bytes(_PROBE)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def temporary(path: str | os.PathLike) -> Path:
    """A name beside a file for what is to become it: hidden, unique among processes and machines, and short even where the
    file's own name is as long as a name may be. When its process is gone, it is swept away."""
    return Path(path).with_name(f".dff-{_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.part")


def _sweep(folder: Path) -> None:
    """Remove temporary files that processes left in a folder when they were killed."""
    with contextlib.suppress(OSError, ValueError):
        for part in folder.glob(".dff-*-*-*.part"):
            machine, process = part.name.split("-")[1:3]
            if time.time() - part.stat().st_mtime > STALE or (machine == _MACHINE and not is_alive(int(process))):
                part.unlink()


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs, given its number; on Windows it is always said to."""
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def write_atomically(path: str | os.PathLike, data: bytes | str) -> Path:
    """Write a file all or not at all: a reader, or a run that was interrupted, never meets half of it.

    It is on the disk before it takes its name: what a file system promises and cannot keep is sentence here.

    Raises:
        DffError: it cannot be written.
    """
    path = Path(path)
    part = temporary(path)
    with system_errors(path, "written"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
    return path
