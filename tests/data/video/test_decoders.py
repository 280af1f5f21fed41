"""Frame i is frame i of the stream in every kind of file, the right way up; decoders end with their clip."""

import gc
import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from dfflib.data.video import open_video, read_stream, reader
from dfflib.data.video.decoders import AvFrames, DecordFrames
from dfflib.data.video.orientation import EXIF, turned
from tests.data.video.test_reader import HEIGHT, WIDTH, film, folder, number_of, picture, truth  # noqa: F401

COUNT = 30
X264 = "keyint=12:min-keyint=12:scenecut=0:b-adapt=0:bframes="
B, OPEN = {"x264-params": X264 + "3"}, {"x264-params": X264 + "3:open-gop=1"}
PLAIN, REFRESH = {"x264-params": X264 + "0"}, {"x264-params": X264 + "0:intra-refresh=1"}
INTERLACED = {"x264-params": X264 + "3:interlaced=1:tff=1"}
FAST = {"cpu-used": "8", "deadline": "realtime"}
SAFE = {"mpeg4": "yuv420p", "gif": "rgb8", "mjpeg": "yuvj420p", "huffyuv": "yuv422p", "apng": "rgb24"}


def write(path, codec, options=None, b_frames=0, times=None, container=None, **kwargs):
    """A short video of numbered pictures with a key frame every twelve; ``times`` in thousandths of a second."""
    with av.open(str(path), "w", options=container or {}, **kwargs) as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, SAFE.get(codec, "yuv420p")
        stream.codec_context.gop_size = 12
        if not codec.startswith("lib"):
            stream.codec_context.max_b_frames = b_frames
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def rewrite(source, path, change):
    """The packets of a file in another one, without those for which ``change(packet, number)`` gives None."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            packet = change(packet, number)
            if packet is not None:
                packet.stream = stream
                new.mux(packet)
    return path


def same_frames(path, monkeypatch, first=0):
    """Assert that a fresh clip gives by number what the stream gives in order; returns the numbers painted there."""
    with read_stream(path) as stream:
        expected = list(stream)
    order = [*np.random.default_rng(0).permutation(len(expected)), *range(5), 3, 2, -1]
    for _ in ("with decord", "without"):
        clip = open_video(path)
        assert len(clip) == len(expected)
        for index in order:
            clip.close() if index == 11 else clip.frames._make.__self__._cache.clear()
            assert (clip.frames[int(index)].int() - expected[index].int()).abs().float().mean() < 2, index
        monkeypatch.setattr(reader, "_for_jumps", lambda path, in_order: in_order)
    monkeypatch.undo()
    return [number_of(frame) for frame in expected]


MATRIX = {
    **{
        f"h264_b.{end}": ("libx264", B)
        for end in ("mp4", "mov", "mkv", "ts", "flv", "3gp", "avi", "mxf", "mpg", "h264")
    },
    **{f"h264_open.{end}": ("libx264", OPEN) for end in ("mp4", "mkv", "avi", "ts")},
    **{f"h264_refresh.{end}": ("libx264", REFRESH) for end in ("mp4", "mkv", "ts")},
    **{f"h264_interlaced.{end}": ("libx264", INTERLACED) for end in ("mp4", "avi")},
    **{f"h264.{end}": ("libx264", PLAIN) for end in ("mp4", "avi", "asf")},
    **{f"mpeg4_b.{end}": ("mpeg4", {}, 2) for end in ("mp4", "avi", "mkv", "mpg")},
    **{f"mpeg2_b.{end}": ("mpeg2video", {}, 2) for end in ("mpg", "vob", "ts", "mxf", "mkv", "asf")},
    **{f"mpeg2.{end}": ("mpeg2video", {}) for end in ("mpg", "vob")},
    **{f"mpeg1_b.{end}": ("mpeg1video", {}, 2) for end in ("mpg", "avi")},
    **{f"vp8.{end}": ("libvpx", FAST) for end in ("webm", "ogv", "avi")},
    **{f"vp9.{end}": ("libvpx-vp9", FAST) for end in ("webm", "mp4")},
    "mpeg1.mpg": ("mpeg1video", {}),
    "wmv2.wmv": ("wmv2", {}),
    "flv1.flv": ("flv", {}),
    "mjpeg.avi": ("mjpeg", {}),
    "mjpeg.mov": ("mjpeg", {}),
    "huffyuv.avi": ("huffyuv", {}),
    "gif.gif": ("gif", {}),
    "apng.apng": ("apng", {}),
}


@pytest.mark.parametrize("name", MATRIX)
def test_a_frame_has_its_number_in_every_kind_of_file(tmp_path, monkeypatch, name):
    kind = {"wmv": "asf", "ogv": "ogg"}.get(name.rpartition(".")[2])
    try:
        path = write(tmp_path / name, *MATRIX[name], format=kind)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this build of FFmpeg cannot write it: {error}")
    assert same_frames(path, monkeypatch) == list(range(COUNT))


UNEQUAL = np.cumsum([0, *np.random.default_rng(3).choice([1, 20, 40, 400, 2000], COUNT - 1)]).tolist()
MUXED = {
    "times that vary": dict(times=UNEQUAL),
    "in fragments": dict(container={"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
    "no edit list": dict(container={"use_editlist": "0"}),
    "negative offsets": dict(container={"movflags": "negative_cts_offsets"}),
}


@pytest.mark.parametrize("how", MUXED)
def test_other_ways_to_keep_times(tmp_path, monkeypatch, how):
    path = write(tmp_path / "film.mp4", "libx264", B, **MUXED[how])
    assert same_frames(path, monkeypatch) == list(range(COUNT))
    if how == "times that vary":
        seconds = AvFrames(path).seconds
        assert (seconds - seconds[0]) * 1000 == pytest.approx(UNEQUAL, abs=1)


def test_an_edit_list_cuts_the_first_frames(tmp_path, monkeypatch):
    data = bytearray(write(tmp_path / "film.mp4", "libx264", B).read_bytes())
    at = data.index(b"elst") + 12
    length, begin = struct.unpack(">Ii", data[at : at + 8])
    data[at : at + 8] = struct.pack(">Ii", length - 7 * 40, begin + 7 * begin // 2)  # two frames of delay before
    (tmp_path / "cut.mp4").write_bytes(data)
    assert same_frames(tmp_path / "cut.mp4", monkeypatch) == list(range(7, COUNT))


def test_files_that_begin_in_the_middle(tmp_path, monkeypatch):
    whole = write(tmp_path / "whole.ts", "libx264", OPEN)
    (tmp_path / "late.ts").write_bytes(whole.read_bytes()[188 * 30 :])
    (tmp_path / "twice.ts").write_bytes(whole.read_bytes() * 2)  # its times begin again
    late = same_frames(tmp_path / "late.ts", monkeypatch)
    assert late == list(range(late[0], COUNT)) and late[0] > 0
    assert same_frames(tmp_path / "twice.ts", monkeypatch)[-COUNT // 2 :] == list(range(COUNT // 2, COUNT))
    plain = write(tmp_path / "whole.mp4", "libx264", OPEN)
    late = same_frames(rewrite(plain, tmp_path / "late.mkv", lambda p, n: p if n >= 5 else None), monkeypatch)
    assert late == list(range(late[0], COUNT))


def test_decoding_times_that_pose_as_presentation_times(tmp_path, monkeypatch):
    def lie(packet, number):
        packet.pts = packet.dts
        return packet

    path = rewrite(write(tmp_path / "film.avi", "libx264", B), tmp_path / "film.mkv", lie)
    assert same_frames(path, monkeypatch) == list(range(COUNT))


def test_packets_that_are_not_shown(tmp_path, monkeypatch):
    def hide(packet, number):
        if number not in (20, 21):
            return packet
        data = bytearray(bytes(packet))
        data[0] &= ~16  # the bit show_frame of VP8
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        return hidden

    path = rewrite(write(tmp_path / "film.webm", "libvpx", FAST), tmp_path / "hidden.webm", hide)
    assert len(same_frames(path, monkeypatch)) == COUNT - 2


def test_a_count_in_the_header_is_not_believed(tmp_path, monkeypatch):
    data = bytearray(write(tmp_path / "film.avi", "mjpeg").read_bytes())
    for at in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        assert struct.unpack("<I", data[at : at + 4])[0] == COUNT
        data[at : at + 4] = struct.pack("<I", 1)
    (tmp_path / "one.avi").write_bytes(data)
    assert same_frames(tmp_path / "one.avi", monkeypatch) == list(range(COUNT))


def test_only_files_whose_times_may_lie_are_decoded_when_they_are_opened(tmp_path):
    path = write(tmp_path / "film.mp4", "libx264", B)
    frames = AvFrames(path)
    assert frames._index.by_times and frames.decord_can_seek() and frames._opened is None
    for name, codec, options in (("a.avi", "libx264", B), ("b.mpg", "mpeg2video", {}), ("c.ts", "libx264", B)):
        frames = AvFrames(write(tmp_path / name, codec, options))
        assert not frames._index.by_times and not frames.decord_can_seek()


# The right way up


def matrix_in(data, a, b, c, d):
    """The bytes of an mp4 with this display matrix."""
    data, at = bytearray(data), data.index(b"tkhd") + 44
    fixed = [int(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[at : at + 36] = struct.pack(">9i", *fixed, 1 << 30)
    return bytes(data)


SHOWN = {  # by EXIF number, what becomes of an image
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("number", SHOWN)
def test_all_eight_orientations(film, truth, tmp_path, monkeypatch, number):  # noqa: F811
    assert np.array_equal(turned(picture(5), EXIF[number]), SHOWN[number](picture(5)))
    path = tmp_path / "turned.mp4"
    path.write_bytes(matrix_in(film.read_bytes(), *EXIF[number]))
    with read_stream(path) as stream:
        streamed = next(iter(stream)).permute(1, 2, 0).numpy()
    upright = [np.ascontiguousarray(SHOWN[number](truth[i].permute(1, 2, 0).numpy())).astype(int) for i in (0, 70)]
    assert streamed.shape == upright[0].shape and np.abs(streamed - upright[0]).max() <= 3
    for _ in ("with decord", "without"):
        clip = open_video(path)
        got = [clip.frames[i].permute(1, 2, 0).numpy() for i in (70, 0)][::-1]
        assert all(np.abs(one - other).max() <= 3 for one, other in zip(got, upright, strict=True))
        monkeypatch.setattr(reader, "_for_jumps", lambda path, in_order: in_order)


BROKEN = [
    (0, 0, 0, 0),
    (1, 0, 0, 0),
    (1, 1, 0, 0),
    (1, 1, 1, 1),
    (-32768,) * 4,
    (32767, 0, 0, 32767),
    (0.7, 0.7, -0.7, 0.7),
]


@pytest.mark.parametrize("matrix", BROKEN)
def test_a_broken_matrix_is_upright(film, truth, tmp_path, matrix):  # noqa: F811
    path = tmp_path / "broken.mp4"
    path.write_bytes(matrix_in(film.read_bytes(), *matrix))
    for frame in (open_video(path).frames[70], open_video(path).frames[[68, 69, 70]][2]):
        assert frame.shape == truth[70].shape and (frame.int() - truth[70].int()).abs().max() <= 3


# Which pictures, and what is said about them


def test_of_two_tracks_the_default_one_is_read(tmp_path, monkeypatch):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=25, options=B) for _ in range(2)]
        for stream, mark in zip(streams, (0, av.stream.Disposition.default), strict=True):
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.disposition = av.stream.Disposition(mark)
        for i in range(COUNT):
            for stream, offset in zip(streams, (0, 100), strict=True):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i + offset), format="rgb24")))
        for stream in streams:
            out.mux(stream.encode())
    assert same_frames(path, monkeypatch) == list(range(100, 100 + COUNT))
    (remark,) = AvFrames(path).remarks
    assert f"{path} has 2 video tracks: number 2" in remark


def test_what_is_said_of_interlaced_and_hdr_video(tmp_path):
    (remark,) = AvFrames(write(tmp_path / "i.mp4", "libx264", INTERLACED)).remarks
    assert f"{tmp_path / 'i.mp4'} is interlaced" in remark and "deinterlace it" in remark
    for transfer, name in (("smpte2084", "PQ"), ("arib-std-b67", "HLG")):
        path = write(tmp_path / f"{name}.mp4", "libx264", {"x264-params": X264 + f"3:transfer={transfer}"})
        (remark,) = AvFrames(path).remarks
        assert f"{path} is HDR video ({name}), which is not tone-mapped" in remark
    assert AvFrames(write(tmp_path / "p.mp4", "libx264", B)).remarks == []


def test_the_size_is_that_of_the_first_frame_whatever_was_read_first(tmp_path):
    path = tmp_path / "grows.ts"
    parts = []
    for height, width in ((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)):
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for i in range(12):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, height, width), format="rgb24")))
            out.mux(stream.encode())
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    for index in (20, 0):
        clip = open_video(path)
        assert clip.frames[index].shape == (3, HEIGHT, WIDTH) and clip.size == (HEIGHT, WIDTH)


# Decoders end with their clip


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts the threads in /proc")
def test_clips_free_their_threads_and_files_without_the_garbage_collector(film):  # noqa: F811
    def held():
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    def read(clip):
        return [number_of(clip.frames[i]) for i in (70, 3, 4, 5, 6)]

    read(open_video(film))
    gc.disable()
    try:
        before = held()
        clips = [open_video(film) for _ in range(10)]
        assert held() == before  # nothing is held for a clip of which nothing was read
        assert all(read(clip) == [70, 3, 4, 5, 6] for clip in clips)
        assert held() != before
        for clip in clips:
            clip.close()
        assert held() == before
        assert read(clips[0]) == [70, 3, 4, 5, 6]  # a closed clip opens again
        with clips[1] as clip:
            read(clip)
        del clip, clips
        assert held() == before
    finally:
        gc.enable()


def test_decord_is_left_where_a_key_frame_is_no_fresh_start(tmp_path):
    pytest.importorskip("decord")
    for name, options, wanted in (("plain.mp4", B, DecordFrames), ("refresh.mp4", REFRESH, AvFrames)):
        path = write(tmp_path / name, "libx264", options)
        assert isinstance(reader._for_jumps(path, AvFrames(path)), wanted)
