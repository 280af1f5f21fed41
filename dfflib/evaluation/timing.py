"""What a frame costs: medians of every part, through the engine that users run, and what eq. 7 makes of them.

The accuracy of a network does not change its speed, so random frames and untrained weights do.
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dfflib.inference.engine import Engine
from dfflib.inference.preparation import autocast, prepare
from dfflib.models.dff import DeepFeatureFlow


def median_ms(call: Callable[[], object], repeats: int = 15, warm_up: int = 3) -> float:
    """Median time of a call in milliseconds, after some calls that do not count; waits for a GPU."""
    return medians_ms({"call": call}, repeats, warm_up)["call"]


def medians_ms(
    calls: Mapping[str, Callable[[], object]], repeats: int = 9, warm_up: int = 2, in_a_row: int = 1
) -> dict[str, float]:
    """Median times of several calls, which take turns: a machine that becomes faster or slower does so for all of them.

    Args:
        calls: by name.
        repeats: turns that count.
        warm_up: turns before them.
        in_a_row: calls of a turn, of which the median counts. One by itself finds in the caches what the others left there;
            of several, most find their own.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warm_up + repeats):
        for name, call in calls.items():
            turn = []
            for _ in range(in_a_row):
                began = time.perf_counter()
                call()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                turn.append(1000 * (time.perf_counter() - began))
            times[name].append(statistics.median(turn))
    return {name: statistics.median(found[warm_up:]) for name, found in times.items()}


def speedup(interval: int, r: float) -> float:
    """Overall speedup s = l / (1 + (l - 1) r) for a non-key frame that costs r of a key frame (eq. 7)."""
    return interval / (1 + (interval - 1) * r)


def ready(model: DeepFeatureFlow) -> Engine:
    """The engine for a model as users run it: prepared for inference, on the device where the model is."""
    return Engine(prepare(model, next(model.parameters()).device))


def random_frames(count: int, size: tuple[int, int]) -> list[Tensor]:
    """Frames ``(3, H, W)`` uint8 as a decoder gives them, of noise."""
    return [torch.randint(256, (*size, 3), dtype=torch.uint8).permute(2, 0, 1) for _ in range(count)]


def parts(engine: Engine, frames: list[Tensor], repeats: int = 9) -> dict[str, float]:
    """Median milliseconds **per frame** of everything that happens to a frame between decoder and painter.

    Args:
        engine: what runs.
        frames: one interval, uint8 ``(3, H, W)`` of one size: a key frame and at least one other. The parts of the others are
            timed in one batch, as the batched mode runs them.

    Returns:
        ``image`` (to floats), ``N_feat``, ``remember`` (the key frame's share of the flow), ``F``, ``W``, ``N_task`` (scores,
        enlarging and argmax; ``N_task, coarse`` with labels of feature cells); and as wholes ``key`` (one key frame),
        ``non-key`` (one of the batch), ``non-key online`` (one by itself).
    """
    others = frames[1:]
    count, network, size = len(others), engine.model, (frames[0].shape[-2], frames[0].shape[-1])
    with torch.inference_mode(), autocast(engine.device, engine.precision):
        engine.key(frames[0])
        image, images = engine.images(frames[:1]), engine.images(others)
        features, encoded = network.extract(image), network.flow_source.encode_key(image)
        cells = tuple(features.shape[-2:])
        flow, scale = network.flow_source.estimate(encoded, images, cells)
        moved, coarse = network.move(features, flow, scale), Engine(network, labels="coarse")
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "image": (lambda: engine.images(others), count),
            "N_feat": (lambda: network.extract(image), 1),
            "remember": (lambda: network.flow_source.encode_key(image), 1),
            "F": (lambda: network.flow_source.estimate(encoded, images, cells), count),
            "W": (lambda: network.move(features, flow, scale), count),
            "N_task": (lambda: engine.results(moved, size), count),
            "N_task, coarse": (lambda: coarse.results(moved, size), count),
            "key": (lambda: engine.key(frames[0]), 1),
            "non-key": (lambda: engine.others(others), count),
            "non-key online": (lambda: engine.others(others[:1]), 1),
        }
        times = medians_ms({name: call for name, (call, _) in calls.items()}, repeats)
        return {name: times[name] / share for name, (_, share) in calls.items()}


def by_kind(times: dict[str, float]) -> dict[str, dict[str, float]]:
    """Of what `parts` found, the stations that each kind of frame passes: ``non-key frame`` and ``key frame``."""
    stations = {"non-key frame": ("image", "F", "W", "N_task"), "key frame": ("image", "N_feat", "remember", "N_task")}
    return {kind: {name: times[name] for name in names} for kind, names in stations.items()}


def measured_speedup(engine: Engine, frames: list[Tensor], key_ms: float, repeats: int = 3) -> float:
    """How much faster than every frame by itself: as many key frames' time as there are frames, over that of the interval.

    Args:
        engine: what runs, frame by frame as they would come from a camera.
        frames: one interval, the key frame first.
        key_ms: time of a key frame, from `parts` in the same run.
        repeats: intervals timed; their median counts.
    """

    def one_interval() -> None:
        """A key frame, and all that follow it."""
        engine.key(frames[0])
        for frame in frames[1:]:
            engine.others([frame])

    return len(frames) * key_ms / median_ms(one_interval, repeats, warm_up=1)
