"""A file that was cut short is told, wherever it was cut and however little is missing; a whole one never is."""

import av
import numpy as np
import pytest

from dfflib.data.video import read_stream
from dfflib.data.video.completeness import is_complete

COUNT = 40
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
KINDS = {
    "front.mp4": ("libx264", {"movflags": "faststart"}), "fragments.mp4": ("libx264", FRAGMENTS), "film.mkv": ("libx264", {}),
    "film.webm": ("libvpx", {}), "film.avi": ("mpeg4", {}), "film.ts": ("libx264", {}), "film.wmv": ("wmv2", {}),
    "film.gif": ("gif", {}), "film.flv": ("flv", {}),
}  # fmt: skip


def write(path, codec, options=None, rate=25):
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb8" if codec == "gif" else "yuv420p"
        stream.options = {"g": "10"}
        texture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        for i in range(COUNT):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, i, 1), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", KINDS)
def test_whole_and_cut_files(tmp_path, name):
    path = write(tmp_path / name, *KINDS[name])
    with read_stream(path) as stream:
        assert len(list(stream)) == COUNT and stream.problem is None and stream.duration == pytest.approx(COUNT / 25)
        told = name.endswith(".ts")
        assert stream.remarks == [f"{path} does not state its length: whether it is whole cannot be told."] * told
    data = path.read_bytes()
    for share in (0.35, 0.8, 0.92):
        path.write_bytes(data[: int(len(data) * share) // 188 * 188 + 100])
        with read_stream(path) as stream:
            count = len(list(stream))
        assert count <= COUNT and stream.problem.startswith(f"{path} is cut short: it ends after {count}")


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.webm", "film.gif"])
def test_slides_are_whole(tmp_path, name):
    codec = {"webm": "libvpx", "gif": "gif"}.get(name[5:], "libx264")
    with read_stream(write(tmp_path / name, codec, rate=1)) as stream:
        assert len(list(stream)) == COUNT and stream.problem is None and stream.duration == pytest.approx(COUNT)


@pytest.mark.parametrize("head", [b"GIF89a", b"RIFF", b"OggS", b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftyp", b"0&\xb2u", b""])
def test_nonsense_is_no_crash(tmp_path, head):
    rng = np.random.default_rng(0)
    for length in (0, 1, 5, 30, 2000):
        (tmp_path / "film").write_bytes(head + rng.bytes(length))
        assert is_complete(tmp_path / "film") in (True, False, None)


@pytest.mark.parametrize("name, codec", [("film.avi", "mpeg4"), ("film.mkv", "libx264"), ("film.mp4", "mpeg4")])
def test_what_is_lost_in_the_middle_is_counted(tmp_path, name, codec):
    path = write(tmp_path / name, codec)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in packets[20:24]:
        at = data.find(bytes(packet))
        data[at : at + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    with read_stream(path) as stream:
        count = len(list(stream))
    assert count < COUNT
    assert f"{path} is damaged: {COUNT - count} packets could not be decoded" in stream.problem


def test_a_header_that_states_one_frame(tmp_path):
    path = write(tmp_path / "film.avi", "mpeg4")
    data = bytearray(path.read_bytes())
    for chunk, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.find(chunk) + offset
        data[at : at + 4] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    with read_stream(path) as stream:
        assert len(list(stream)) == COUNT == stream.num_frames and stream.problem is None
