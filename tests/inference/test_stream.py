"""Streaming: the generator against the same steps by hand, and overlay videos end to end."""

import itertools
import threading
import time
import weakref
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfflib.data.video import VideoWriter, open_video
from dfflib.data.video import reader as video_module
from dfflib.errors import DffError
from dfflib.flow import FlowNetwork
from dfflib.inference import engine, stream
from dfflib.inference.engine import Engine
from dfflib.inference.schedule import FixedInterval
from dfflib.inference.stream import predictions, segment_video
from dfflib.models import task
from dfflib.models.build import build
from dfflib.models.checkpoints import save_checkpoint
from dfflib.models.dff import DeepFeatureFlow

SMALL = dict(task=dict(num_classes=2), features=dict(channels=8), flow=dict(width=0.03))


def frames(count=7, size=(32, 40)):
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=rng)
    picture = torch.nn.functional.interpolate(coarse, (size[0], size[1] + 2 * count), mode="bilinear")[0]
    return [(255 * picture[..., 2 * t : 2 * t + size[1]]).to(torch.uint8) for t in range(count)]


def net():
    torch.manual_seed(1)
    model = build(**SMALL).eval()
    with torch.no_grad():  # flow, scale and scores that matter
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("weights") / "joint.safetensors"
    return save_checkpoint(path, model, SMALL, stage="joint")


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "in.mp4", frames(12))


def write_video(path, pictures):
    with VideoWriter(path, 10, tuple(pictures[0].shape[-2:])) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def decoded(path):
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
def test_predictions_are_the_three_calls(model, interval):
    pictures = frames()
    results = list(predictions(model, pictures, FixedInterval(interval)))
    assert [r.index for r in results if r.is_key] == list(range(0, 7, interval))
    with torch.no_grad():
        for i, result in enumerate(results):
            k = i - i % interval
            key, current = (pictures[n][None].to(memory_format=torch.channels_last) / 255 for n in (k, i))
            features = model.extract(key)
            if i != k:
                features = model.propagate(features, key, current)
            assert torch.equal(result.result, model.predict(features, (32, 40)).argmax(1)[0])
            assert result.index == i and result.frame is pictures[i] and result.result.dtype == torch.int64
            if interval == 1:
                assert torch.equal(result.result, model.per_frame(current).argmax(1)[0])


def watched(alive, count, size):
    """Frames that only their readers keep; those that are kept are in ``alive``."""
    for _ in range(count):
        frame = torch.randint(256, (3, *size), dtype=torch.uint8)
        alive.add(frame)
        yield frame
        del frame


@pytest.mark.parametrize("flow", stream.FLOW_SOURCES)
@pytest.mark.parametrize("interval", [1, 2, 4, 30])
def test_both_modes_label_alike(model, flow, interval, monkeypatch):
    monkeypatch.setattr(engine, "MOST", 5)  # an interval of 30 is cut into batches of 5
    source = stream.flow_source(flow)
    chosen = model if source is None else model.with_flow(source)
    pictures = frames(13)
    online, batched = (list(predictions(chosen, pictures, FixedInterval(interval), mode=m)) for m in stream.MODES)
    for one, other in zip(online, batched, strict=True):
        assert (one.index, one.is_key) == (other.index, other.is_key) and one.frame is other.frame
        assert (one.result != other.result).float().mean() < 0.002  # a tie here and there


@settings(max_examples=12)
@given(count=st.integers(1, 40), interval=st.integers(1, 13), most=st.integers(1, 7), held=st.integers(1, 30),
       source=st.sampled_from([*stream.FLOW_SOURCES]))  # fmt: skip
def test_batches_give_what_every_frame_by_itself_gives(count, interval, most, held, source):
    """However many frames, intervals and frames of a batch; and an error after them loses none."""
    flow, pictures, found = stream.flow_source(source), frames(count), []
    model = net()
    model = model if flow is None else model.with_flow(flow)
    broken = itertools.chain(pictures, (1 / 0 for _ in range(1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "MOST", most)
        patch.setattr(engine, "HELD", held)
        with pytest.raises(ZeroDivisionError):
            iter_into(found, predictions(model, broken, FixedInterval(interval), mode="batched"))
    assert [p.index for p in found] == list(range(count)) and all(p.frame is pictures[p.index] for p in found)
    assert [p.is_key for p in found] == [n % interval == 0 for n in range(count)]
    with torch.no_grad():
        for n, prediction in enumerate(found):
            key, current = (pictures[i][None] / 255 for i in (n - n % interval, n))
            features = model.extract(key)
            scores = model.predict(model.propagate(features, key, current) if n % interval else features, (32, 40))[0]
            lost = scores.amax(0) - scores.gather(0, prediction.result[None])[0]
            assert lost.max() < 1e-3  # another class only where both are as good


@pytest.mark.parametrize("interval", [1, 3, 50])
def test_no_more_frames_are_held_than_a_group_has(model, monkeypatch, interval):
    """However long the video."""
    alive, most = weakref.WeakSet(), 0
    monkeypatch.setattr(engine, "MOST", 4)
    monkeypatch.setattr(engine, "HELD", 9)
    for result in predictions(model, watched(alive, 70, (16, 20)), FixedInterval(interval), mode="batched"):
        most = max(most, len(alive))
        del result
    assert most <= 9 + 1


@pytest.mark.parametrize("threads", [1, 2])
def test_a_key_frame_is_worked_on_once_an_interval(model, monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    calls = {"extract": [], "encode_key": [], "estimate": []}
    for owner, name in ((DeepFeatureFlow, "extract"), (FlowNetwork, "encode_key"), (FlowNetwork, "estimate")):
        original = getattr(owner, name)

        def counted(*args, _name=name, _original=original):
            calls[_name].append(len(args[2 if _name == "estimate" else 1]))  # images of a batch
            return _original(*args)

        monkeypatch.setattr(owner, name, counted)
    list(predictions(model, frames(12), FixedInterval(4), mode="online"))
    assert calls == {"extract": [1] * 3, "encode_key": [1] * 3, "estimate": [1] * 9}
    for found in calls.values():
        found.clear()
    list(predictions(model, frames(12), FixedInterval(4), mode="batched"))
    calls["estimate"].sort()
    assert calls == {"extract": [3], "encode_key": [3], "estimate": {1: [9], 2: [4, 5]}[threads]}


def test_coarse_labels_are_constant_on_a_cell_and_full_ones_are_finer(model):
    pictures = frames(3)
    coarse, full = (
        [r.result for r in predictions(Engine(model, labels=kind), pictures, FixedInterval(2))]
        for kind in ("coarse", "full")
    )
    for labels, fine in zip(coarse, full, strict=True):
        cells = labels.view(8, 4, 10, 4)
        assert (cells == cells[:, :1, :, :1]).all() and labels.shape == fine.shape
        assert (labels == fine).float().mean() > 0.8
    with pytest.raises(DffError, match="no labels 'half'"):
        Engine(model, labels="half")
    with pytest.raises(DffError, match="no mode 'offline'"):
        predictions(model, pictures, FixedInterval(2), mode="offline")


def test_a_frame_comes_out_before_the_next_is_read(model):
    read = []

    def camera():
        for i, frame in enumerate(frames()):
            read.append(i)
            yield frame

    results = predictions(model, camera(), FixedInterval(3))
    assert read == []
    for i in range(7):
        assert next(results).index == i and read == list(range(i + 1))
    with pytest.raises(StopIteration):
        next(results)


def test_only_the_key_frame_and_the_current_one_are_kept(model):
    alive = weakref.WeakSet()
    images, original = weakref.WeakSet(), Engine.images

    def network_input(engine, frames):
        found = original(engine, frames)
        images.add(found)
        return found

    most = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "images", network_input)
        for result in predictions(model, watched(alive, 20, (32, 40)), FixedInterval(4)):
            most = max(most, len(alive), len(images))
            del result
    assert most <= 2


def test_one_frame_and_a_change_of_size(checkpoint, tmp_path):
    done = segment_video(
        write_video(tmp_path / "one.mp4", frames(1)), tmp_path / "out.mp4", 1, checkpoint, progress=False
    )
    assert (done.frames, done.key_frames) == (1, 1) and len(decoded(done.out)) == 1
    parts = [
        write_video(tmp_path / f"{n}.mkv", frames(4, size)).read_bytes() for n, size in enumerate(((32, 40), (48, 64)))
    ]
    (tmp_path / "two.mkv").write_bytes(b"".join(parts))
    done = segment_video(tmp_path / "two.mkv", tmp_path / "two.mp4", 3, checkpoint, progress=False)
    assert done.frames == len(decoded(done.out)) >= 4 and decoded(done.out)[0].shape == (32, 40, 3)


@pytest.mark.parametrize("mode", stream.MODES)
def test_a_video_is_read_no_faster_than_it_is_used(checkpoint, tmp_path, mode, monkeypatch):
    video, read, ahead_of = write_video(tmp_path / "long.mp4", frames(60, (16, 16))), [], []
    resize = video_module.resize
    monkeypatch.setattr(video_module, "resize", lambda *args: (read.append(1), resize(*args))[1])
    original, written = task.overlay, []

    def slow(*args):
        time.sleep(0.01)  # a consumer that sleeps
        written.append(1)
        ahead_of.append(len(read) - len(written))
        return original(*args)

    monkeypatch.setattr(task, "overlay", slow)
    done = segment_video(video, tmp_path / "out.mp4", 12, checkpoint, progress=False, mode=mode)
    assert done.frames == 60 and max(ahead_of) <= stream.AHEAD + 2 + (engine.HELD - 1 if mode == "batched" else 0)


def test_a_video_end_to_end(checkpoint, video, tmp_path):
    done = segment_video(video, tmp_path / "out.mp4", 5, checkpoint, progress=False)
    assert (done.frames, done.key_frames, done.problem) == (12, 3, None) and done.fps > 0
    pictures = decoded(done.out)
    assert len(pictures) == 12 and pictures[0].shape == (32, 40, 3)
    assert open_video(done.out).fps == pytest.approx(10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize("flow", stream.FLOW_SOURCES)
def test_two_runs_write_the_same_video(checkpoint, video, tmp_path, flow):
    for name in "ab":
        segment_video(video, tmp_path / f"{name}.mp4", 4, checkpoint, flow, progress=False)
    assert all(
        np.array_equal(a, b) for a, b in zip(decoded(tmp_path / "a.mp4"), decoded(tmp_path / "b.mp4"), strict=True)
    )


@pytest.mark.parametrize(
    "size, kind", [((33, 47), "colour"), ((32, 40), "grey"), ((21, 30), "alpha"), ((5, 7), "colour")]
)
def test_folders_of_images(checkpoint, tmp_path, size, kind):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, frame in enumerate(frames(3, size)):
        image = frame.permute(1, 2, 0).numpy()
        image = {"colour": image, "grey": image[..., 0], "alpha": np.dstack((image, image[..., :1]))}[kind]
        cv2.imwrite(str(folder / f"{i}.png"), image)
    done = segment_video(folder, tmp_path / "out.mp4", 2, checkpoint, progress=False)
    assert done.frames == 3
    assert [p.shape for p in decoded(done.out)] == [(size[0] + size[0] % 2, size[1] + size[1] % 2, 3)] * 3


def test_a_damaged_video_is_segmented_up_to_the_damage(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    noise = [torch.from_numpy(rng.integers(0, 256, (3, 48, 64), dtype=np.uint8)) for _ in range(20)]
    whole = write_video(tmp_path / "whole.mp4", noise).read_bytes()  # its index is in front
    short = tmp_path / "short.mp4"
    short.write_bytes(whole[: len(whole) // 2])
    done = segment_video(short, tmp_path / "out.mp4", 5, checkpoint, progress=False)
    assert done.problem and "short.mp4" in done.problem
    assert 0 < done.frames < 20 and len(decoded(done.out)) == done.frames


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), KeyboardInterrupt("stopped by SIGTERM."), DffError("4.png is bad.")]
)
def test_what_is_not_whole_never_poses_as_whole(checkpoint, video, tmp_path, monkeypatch, stop):
    out, part = tmp_path / "out.mp4", tmp_path / "out.part.mp4"
    segment_video(video, out, 5, checkpoint, progress=False)
    earlier, original, count = out.read_bytes(), task.overlay, []

    def overlay(*args):
        count.append(1)
        if len(count) == 6:
            raise stop
        return original(*args)

    monkeypatch.setattr(task, "overlay", overlay)
    with pytest.raises(type(stop)) as caught:
        segment_video(video, out, 5, checkpoint, progress=False)
    said = str(stop).rstrip(".") or "stopped"
    assert str(caught.value) == f"{said}; the 5 frames until then are in {part}."
    assert out.read_bytes() == earlier and len(decoded(part)) == 5
    segment_video(video, out, 5, checkpoint, progress=False)  # the same command again leaves nothing of the part
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_the_part_is_not_the_input(checkpoint, video, tmp_path):
    part = video.rename(tmp_path / "out.part.mp4")
    before = part.read_bytes()
    with pytest.raises(DffError, match=r"out.part.mp4 is where .*out.mp4 is kept while it is written: rename it"):
        segment_video(part, tmp_path / "out.mp4", 5, checkpoint, progress=False)
    assert part.read_bytes() == before


@pytest.mark.parametrize("times", [[0, 40, 80, 120, 3000, 9000], [7, 44, 79, 110, 152, 190], [0, 200_000, 400_000]])
def test_each_frame_keeps_its_time(checkpoint, tmp_path, times):
    """Slow slides, a browser's recording and a picture every 200 seconds, in Matroska, which rounds to milliseconds."""
    with VideoWriter(tmp_path / "in.mkv", 25, (32, 40)) as writer:
        for time_, picture in zip(times, frames(len(times)), strict=True):
            writer.write(picture, time_ / 1000)
        writer.close(times[-1] / 1000 + 2)
    done = segment_video(tmp_path / "in.mkv", tmp_path / "out.mp4", 2, checkpoint, progress=False)
    with av.open(str(done.out)) as container:
        shown = [frame.time for frame in container.decode(video=0)]
        seconds = container.duration / av.time_base
    assert shown == pytest.approx([(t - times[0]) / 1000 for t in times], abs=0.05)
    assert seconds == pytest.approx((times[-1] - times[0]) / 1000 + 2, rel=0.02)
    assert len(open_video(done.out)) == len(times) == len(open_video(done.out).times)


def test_a_pixel_keeps_its_shape(checkpoint, tmp_path):
    with VideoWriter(tmp_path / "in.mp4", 10, (32, 40), Fraction(64, 45)) as writer:
        writer.write(frames(1)[0])
    done = segment_video(tmp_path / "in.mp4", tmp_path / "out.mp4", 5, checkpoint, progress=False)
    with av.open(str(done.out)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(64, 45)


def test_frames_per_second_of_a_folder_and_in_place_of_times(checkpoint, video, tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), frames(1)[0].permute(1, 2, 0).numpy())
    cv2.imwrite(str(tmp_path / "1.png"), frames(1)[0].permute(1, 2, 0).numpy())
    for source, seconds in ((tmp_path, 2 / 4), (video, 12 / 4)):
        done = segment_video(source, tmp_path / "new" / "out.mp4", 1, checkpoint, progress=False, fps=4)
        with av.open(str(done.out)) as container:
            assert container.duration / av.time_base == seconds
            assert container.streams.video[0].average_rate == 4
    with pytest.raises(DffError, match="-3 frames per second is no frame rate"):
        segment_video(video, tmp_path / "out.mp4", 1, checkpoint, progress=False, fps=-3)


def test_short_videos_and_long_intervals(checkpoint, video, tmp_path):
    for count in (1, 2, 3):
        short = write_video(tmp_path / f"{count}.mp4", frames(count))
        done = segment_video(short, tmp_path / "out.mp4", checkpoint=checkpoint, progress=False)
        assert (done.frames, done.key_frames, done.remarks) == (count, 1, ())
    done = segment_video(video, tmp_path / "out.mp4", 13, checkpoint, progress=False)
    assert done.key_frames == 1
    assert done.remarks == (f"{video} has only 12 frames, fewer than the key-frame interval of 13: one key frame.",)


def test_the_size_that_the_model_was_trained_at_is_the_default(model, video, tmp_path, monkeypatch):
    checkpoint = save_checkpoint(tmp_path / "w.safetensors", model, SMALL, short_side=16)
    seen, original = set(), Engine.images
    monkeypatch.setattr(Engine, "images", lambda e, f: (seen.add(e.short_side), original(e, f))[1])
    segment_video(video, tmp_path / "out.mp4", 5, checkpoint, progress=False)
    segment_video(video, tmp_path / "out.mp4", 5, checkpoint, short_side=24, progress=False)
    assert seen == {16, 24}


def test_refusals(checkpoint, video, tmp_path, model):
    flow_only = save_checkpoint(
        tmp_path / "f.safetensors", model, SMALL, parts=("flow_source.",), stage="flow_detached"
    )
    for options, said in (
        (dict(flow="raft"), "flow source 'raft'"),
        (dict(interval=0), "interval is 0"),
        (dict(checkpoint=flow_only), "flow network alone"),
    ):
        with pytest.raises(DffError, match=said):
            segment_video(video, tmp_path / "out.mp4", **{"checkpoint": checkpoint, "progress": False, **options})
    assert not (tmp_path / "out.mp4").exists()
    assert stream.default_out("/some/where/clip.avi").name == "clip_dff.mp4"


def test_nobody_decodes_any_more_when_an_error_is_told(tmp_path, checkpoint, monkeypatch):
    """An error in the networks leaves the thread that decodes ahead in the middle of the file, which is then closed."""
    video, reading = write_video(tmp_path / "long.mp4", frames(60)), []

    def fails(engine, pictures, *_, **__):
        held = iter(pictures)
        next(held)
        raise ZeroDivisionError
        yield

    def close(self, closed=video_module.VideoStream.close):
        reading.extend(thread for thread in threading.enumerate() if thread.name == "prefetch")
        closed(self)

    monkeypatch.setattr(stream, "predictions", fails)
    monkeypatch.setattr(video_module.VideoStream, "close", close)
    with pytest.raises(ZeroDivisionError):
        segment_video(video, tmp_path / "out.mp4", 5, checkpoint, progress=False)
    assert not reading and not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("mode", stream.MODES)
@pytest.mark.parametrize("bad", [lambda x: x.float() / 255, lambda x: x[None], lambda x: x[:1], lambda x: x.numpy(),
                                 lambda x: x[:, :16], lambda x: x[:, :, :20]])  # fmt: skip
def test_a_frame_of_another_kind_is_refused_by_its_number(model, mode, bad):
    pictures = frames(7)
    for place in (4, 5):  # a key frame, and one that is none
        found = []
        with pytest.raises(DffError, match=f"frame {place} .*: give"):
            given = [*pictures[:place], bad(pictures[place])]
            iter_into(found, predictions(model, given, FixedInterval(4), mode=mode))
        assert [result.index for result in found] == list(range(place))
    one = Engine(model)
    with pytest.raises(DffError, match="no key frame yet"):
        one.others(pictures[:1])
    one.key(pictures[0])
    for call in (lambda: one.others([pictures[1], bad(pictures[2])]), lambda: one.others([bad(pictures[1])])):
        with pytest.raises(DffError, match="a frame"):
            call()


def iter_into(found, results):
    for result in results:
        found.append(result)
