"""A bounded cache of rendered samples on disk, which several processes may fill at once.

A sample is one safetensors file (loading it runs no code), ``<folder>/<first two digits>/<SHA-256 of the key>.safetensors``,
written under a temporary name and renamed: a reader meets a whole file or none. No locks: what processes share is the
files and a *ledger*, a file whose **length** counts what has been written since the folder was last scanned, in units of
``LEDGER_UNIT``. Appending is atomic on a local disk and reading a length is one ``stat``, so that every process knows what
all have written without scanning. The ledger is a hint: lost or wrong, it is put right by the next scan.
"""

import json
import os
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dfflib.errors import DffError

TOUCH_SECONDS = 60
"""A hit renews the file's time of use (mtime) at most this often: within a minute the order of eviction is that of writing."""

ABANDONED_SECONDS = 3600
"""A temporary file older than this is of a writer that was killed; the next scan removes it."""

EVICT_TO = 0.9
"""Fraction of ``max_bytes`` that a cache which is full is emptied to, so that it is not scanned at every write."""

LEDGER_UNIT = 1024
"""Bytes on disk that one byte of the ledger stands for."""

_warned = False  # one warning per process, whatever the number of caches and samples


class DiskCache:
    """Samples (dicts of named tensors) by key, at most ``max_bytes`` of them on disk; the least recently used go first.

    Picklable, so that it may travel to DataLoader workers. The total stays below ``max_bytes`` but for the one sample that
    each process may be writing at that moment. The folder is scanned at the first write, when the ledger says that it is
    full, and after this process has written a sixteenth of ``max_bytes`` (as the ledger may be wrong).

    Args:
        folder: created at the first write. Files in it that are not the cache's are neither counted nor removed.
        max_bytes: limit of the total of file sizes; a larger sample is made each time and not stored.

    Raises:
        DffError: ``folder`` is a file, or ``max_bytes`` is not positive.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: int = 2 * 2**30):
        self.folder, self.max_bytes = Path(folder).absolute(), max_bytes
        if max_bytes <= 0:
            raise DffError(f"a cache of {max_bytes} bytes holds nothing: give max_bytes above 0, or no cache at all.")
        if self.folder.exists() and not self.folder.is_dir():
            raise DffError(f"{folder} is a file and cannot hold the cache: name a folder, or remove the file.")
        self._ledger = self.folder / "ledger"
        self._written: int | None = None  # bytes this process has written since its last scan; None: not scanned yet

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The sample of ``key``: read if it is there, else made, stored and returned.

        A damaged file is made again. A disk that is full or read-only costs one warning per process, never the sample.

        Args:
            key: everything that the sample depends on, versions included; any text.
            make: gives the sample, of tensors of any shape, layout and type that safetensors knows. A hit has the same
                names in the same order, shapes, types and bits, as contiguous tensors on the CPU without gradient.
        """
        path = self._path(key)
        sample = _read(path, key)
        if sample is None:
            sample = make()
            file = _pack(sample, key)
            try:
                self._store(path, file)
            except FileNotFoundError:
                pass  # another process clears the folder at this moment: the sample is stored next time
            except OSError as error:
                _warn_once(self.folder, error)
        return sample

    def size(self) -> int:
        """Bytes of the cache's files now, temporary ones included (a scan)."""
        return sum(size for _, _, size, _ in self._files())

    def clear(self) -> None:
        """Remove every sample; files that are not the cache's stay, and so do the folders."""
        for path, *_ in list(self._files()):
            _remove(path)
        _remove(self._ledger)
        self._written = None

    def _path(self, key: str) -> Path:
        name = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _store(self, path: Path, file: bytes) -> None:
        if len(file) > self.max_bytes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._ledger, "ab") as ledger:  # booked before it is written: other processes make room for it
            ledger.write(bytes(_units(len(file))))
        stale = self._written is None or self._written + len(file) > self.max_bytes / 16
        if stale or self._booked() * LEDGER_UNIT > self.max_bytes:
            self._make_room(len(file))
        _write(path, file)
        self._written = (self._written or 0) + len(file)

    def _booked(self) -> int:
        try:
            return self._ledger.stat().st_size
        except OSError:
            return 0

    def _make_room(self, incoming: int) -> None:
        """Scan; sweep abandoned temporary files; evict if ``incoming`` bytes more would not fit; set the ledger right."""
        before, files, now = self._booked(), list(self._files()), time.time()
        entries = []
        total = 0
        for path, is_entry, size, used in files:
            if not is_entry and now - used > ABANDONED_SECONDS:
                _remove(path)
                continue
            total += size
            if is_entry:
                entries.append((used, path, size))
        # What others have booked since the scan began may be missing in it: it counts twice rather than never.
        since = max(0, self._booked() - before)
        if total + incoming + since * LEDGER_UNIT > self.max_bytes:
            target = min(EVICT_TO * self.max_bytes, self.max_bytes - incoming - since * LEDGER_UNIT)
            for _, path, size in sorted(entries):
                if total <= target:
                    break
                _remove(path)  # gone already, by another process's eviction: as good
                total -= size
        with open(self._ledger, "ab") as ledger:
            ledger.truncate(_units(total) + _units(incoming) + max(0, self._booked() - before))
        self._written = 0

    def _files(self) -> Iterator[tuple[Path, bool, int, float]]:
        """The cache's own files: path, whether it is a sample (else temporary), bytes, time of use."""
        for number in range(256):
            try:
                with os.scandir(self.folder / f"{number:02x}") as entries:
                    for entry in entries:
                        is_entry = entry.name.endswith(".safetensors") and len(entry.name) == 64 + len(".safetensors")
                        if is_entry or (entry.name.startswith(".") and entry.name.endswith(".part")):
                            try:
                                facts = entry.stat()
                            except OSError:
                                continue  # evicted by another process since
                            yield Path(entry.path), is_entry, facts.st_size, facts.st_mtime
            except OSError:
                continue


def _units(size: int) -> int:
    return -(-size // LEDGER_UNIT)


def _checksum(sample: dict[str, Tensor]) -> str:
    """safetensors notices a file that is too short, but not a wrong byte among the values."""
    crc = 0
    for tensor in sample.values():
        if tensor.numel():
            crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def _pack(sample: dict[str, Tensor], key: str) -> bytes:
    # Copies, because safetensors refuses tensors that share memory, as views of one clip do.
    tensors = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in sample.items()}
    about = {"key": json.dumps(key), "names": json.dumps(list(tensors)), "crc32": _checksum(tensors)}
    return save(tensors, metadata=about)


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    """The sample in a file; None if there is none, it is damaged, or it is not of this key."""
    try:
        with open(path, "rb") as file:
            used = os.fstat(file.fileno()).st_mtime
            data = file.read()
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if json.loads(about["key"]) != key:
            return None
        tensors = load(data)
        sample = {name: tensors[name] for name in json.loads(about["names"])}
        if len(sample) != len(tensors) or _checksum(sample) != about["crc32"]:
            return None
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        RuntimeError,
        SafetensorError,
    ):  # whatever a foreign file may hold
        return None
    if abs(time.time() - used) > TOUCH_SECONDS:
        try:
            os.utime(path)
        except OSError:
            pass  # evicted meanwhile, or a read-only folder: the sample is right all the same
    return sample


def _write(path: Path, file: bytes) -> None:
    """As ``paths.write_atomically``, but the temporary name is unique among threads, containers and machines too."""
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(file)
        os.replace(part, path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # not ours to remove, or in use: the cache goes on


def _warn_once(folder: Path, error: OSError) -> None:
    global _warned
    if not _warned:
        _warned = True
        reason = error.strerror or error
        warnings.warn(f"samples are not kept in {folder} ({reason}): they are made each time.", stacklevel=3)
