"""Is a video file complete, or was it cut short? Read from its outermost structure, without decoding anything.

Most containers are made of blocks that state their own size. Walking from block to block tells whether the last one ends
where the file ends; a download that broke off is found to the byte, however long the video is. Broadcast formats and
plain streams state no sizes; for these the answer is None, unknown.
"""

import mmap
from pathlib import Path


def is_complete(path: Path) -> bool | None:
    """Whether a file is as long as it states: True, False (it is cut short), or None if it does not say."""
    with open(path, "rb") as file:
        if not file.read(1):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            head = data[:12]
            if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                return _boxes(data)
            if head[:4] == b"\x1a\x45\xdf\xa3":
                return _segment(data)
            if head[:4] == b"RIFF":
                return _riff(data)
            if head[:4] == b"GIF8":
                return _gif(data)
            if head[:4] == b"OggS":
                return _ogg(data)
            if head[:4] == b"\x30\x26\xb2\x75":
                return _asf(data)
            return _broadcast(data)


def _boxes(data) -> bool | None:
    """ISO base media (mp4, mov, 3gp): boxes one behind the other, each with its size."""
    at, kinds = 0, set()
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # up to the end, wherever that is
            return None
        if size < 8 or not kind.isascii():  # something else is appended
            break
        kinds.add(kind)
        at += size
    # fragments go on until the recording ends; their index, where there is one, comes last
    return False if at > len(data) else None if b"moof" in kinds and b"mfra" not in kinds else True


def _segment(data) -> bool | None:
    """Matroska and WebM: a header, then one segment with its size."""
    size, at = _ebml_size(data, 4)
    at += size or 0
    if data[at : at + 4] != b"\x18\x53\x80\x67":
        return None
    size, at = _ebml_size(data, at + 4)
    return None if size is None else at + size <= len(data)


def _ebml_size(data, at: int) -> tuple[int | None, int]:
    """A number of one to eight bytes, None if all its bits are set (unknown), and where it ends."""
    length = 9 - data[at].bit_length() if at < len(data) and data[at] else 8
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _riff(data) -> bool | None:
    """AVI: chunks of at most 2 GB, each with its size; recorders that crash leave it at 0."""
    at = 0
    while data[at : at + 4] == b"RIFF":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if size == 0:
            return None
        at += 8 + size + size % 2
    return at <= len(data) + 8  # some recorders count the head of the chunk, too


def _gif(data) -> bool | None:
    """GIF: blocks up to a trailer, which some encoders forget."""

    def table(flags: int) -> int:
        """Bytes of a colour table."""
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    try:
        at = 13 + table(data[10])
        while at < len(data) and data[at] in (0x21, 0x2C):
            at += 2 if data[at] == 0x21 else 11 + table(data[at + 9])
            while data[at]:
                at += 1 + data[at]
            at += 1
        return True if at < len(data) else None if at == len(data) else False
    except IndexError:
        return False


def _ogg(data) -> bool | None:
    """Ogg: pages, of which the last says that it is the last."""
    at = data.rfind(b"OggS")
    body = data[at + 26] if at + 26 < len(data) else 255
    if at + 27 + body + sum(data[at + 27 : at + 27 + body]) > len(data):
        return False
    return True if data[at + 5] & 4 else None


def _asf(data) -> bool | None:
    """WMV: a header in which one object states the size of the file; 0 while it is recorded."""
    at = data.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), 0, 1 << 16)
    size = int.from_bytes(data[at + 40 : at + 48], "little") if at >= 0 else 0
    return size <= len(data) if size else None


def _broadcast(data) -> bool | None:
    """Transport streams: packets of one size. Program streams: an end code, which is often left out."""
    for size, first in ((188, 0), (192, 4), (204, 0)):
        if len(data) > 4 * size and all(data[first + size * i] == 0x47 for i in range(4)):
            return None if len(data) % size == 0 else False
    return True if data[:4] == b"\0\0\1\xba" and data[-4:] == b"\0\0\1\xb9" else None
