"""Training batches: pairs of a key frame and a current frame from the same shot, and frames moved by a known flow.

A batch is a pure function of ``(seed, step)``. So a run that was stopped and resumed sees the very batches that it would
have seen, and so does a run in another process.
"""

import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dfflib.data.clips import Clip
from dfflib.data.shots import Shots
from dfflib.errors import DffError
from dfflib.stopping import SIGNALS
from dfflib.warp import warp


@dataclass
class Batch:
    """What one training step sees.

    Attributes:
        key, current: ``(N, 3, H, W)`` float32 in [0, 1].
        labels: of the current frame, ``(N, H, W)`` int64; None for moved frames.
        is_key: bool ``(N,)``: the current frame *is* the key frame; None for moved frames.
        flow: exact flow from current to key in pixels, ``(N, 2, H, W)``; None for real pairs.
        valid: pixels whose flow is known, bool ``(N, 1, H, W)``; None where all are.
    """

    key: Tensor
    current: Tensor
    labels: Tensor | None = None
    is_key: Tensor | None = None
    flow: Tensor | None = None
    valid: Tensor | None = None

    def to(self, device) -> "Batch":
        """The same batch on a device."""
        return replace(self, **{name: part.to(device) for name, part in vars(self).items() if part is not None})


def generator(seed: int, step: int) -> torch.Generator:
    """A random generator for one step, independent of every other step's."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2_654_435_761 % 2**63)


def random_index(stop: int, rng: torch.Generator) -> int:
    """A random whole number from 0 to ``stop - 1``."""
    return int(torch.randint(stop, (1,), generator=rng))


class FramePairs:
    """Random pairs as in the paper, section 4: a labelled current frame i, and a key frame k with 0 <= i - k <= l - 1.

    Args:
        clips: labelled clips, of any sizes; longer clips are drawn from more often.
        crop: ``(height, width)`` cut at the same random place from both frames; clips must be at least that large.
        max_interval: l; offsets are uniform in 0 .. l-1 and shortened where the shot began later.
        flip: mirror half of the pairs, both frames alike.
    """

    def __init__(self, clips: list[Clip], crop: tuple[int, int], max_interval: int, flip: bool = True):
        if max_interval < 1:
            raise DffError(f"the longest interval is {max_interval}: choose 1 or more frames.")
        for clip in clips:
            if clip.size[0] < crop[0] or clip.size[1] < crop[1]:
                raise DffError(
                    f"{clip.name} has frames of {clip.size[1]}x{clip.size[0]} pixels, smaller than the training crop of "
                    f"{crop[1]}x{crop[0]}: enlarge the frames or choose a smaller crop."
                )
        self.clips, self.crop, self.max_interval, self.flip = clips, crop, max_interval, flip
        self.shots = [Shots(clip) for clip in clips]
        self.frames = [(c, i) for c, clip in enumerate(clips) for i in clip.labelled]
        if not self.frames:
            raise DffError("no clip has a labelled frame: give at least one clip with masks.")

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """The batch of one step: ``size`` pairs."""
        rng = generator(seed, step)
        samples = [self._sample(rng) for _ in range(size)]
        key, current, labels, is_key = (torch.stack(parts) for parts in zip(*samples, strict=True))
        return Batch(key, current, labels, is_key)

    def _sample(self, rng: torch.Generator) -> tuple[Tensor, ...]:
        c, current = self.frames[random_index(len(self.frames), rng)]
        clip = self.clips[c]
        key = max(current - random_index(self.max_interval, rng), self.shots[c].start_of(current))
        top, left = (random_index(side - crop + 1, rng) for side, crop in zip(clip.size, self.crop, strict=True))
        window = (..., slice(top, top + self.crop[0]), slice(left, left + self.crop[1]))
        parts = [clip.frames[key][window] / 255, clip.frames[current][window] / 255, clip.mask(current)[window]]
        if self.flip and random_index(2, rng):
            parts = [part.flip(-1) for part in parts]
        return *parts, torch.tensor(key == current)


class MovedFrames:
    """Real frames moved by a known, smooth random flow: pre-training pairs with exact ground truth, without labels.

    The key frame K is a crop of a frame; a random flow M is drawn (shift, rotation, zoom, and a smooth deformation); the
    current frame is K looked up along M. By the definition of backward flow, M is then exactly the flow from the current
    frame to the key frame. It plays the part that the Flying Chairs play in the paper.

    Args:
        clips: clips to take frames from; masks are not used.
        crop: ``(height, width)``.
        max_motion: longest shift in pixels; lengths are drawn with most of their weight on small ones.
    """

    def __init__(self, clips: list[Clip], crop: tuple[int, int], max_motion: float = 24.0):
        self.source = FramePairs([_with_dummy_masks(clip) for clip in clips], crop, max_interval=1)
        self.crop, self.max_motion = crop, max_motion

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """The batch of one step: ``size`` pairs with their exact flow."""
        key = self.source.batch(size, seed, step).key
        rng = generator(seed + 1, step)
        flow = random_flow(size, self.crop, self.max_motion, rng)
        current = warp(key, flow, "border")
        noise = torch.randn(2, *key.shape, generator=rng) * 0.01 * torch.rand(2, size, 1, 1, 1, generator=rng)
        gain = 1 + 0.1 * (torch.rand(size, 1, 1, 1, generator=rng) - 0.5)
        return Batch((key + noise[0]).clamp(0, 1), (current * gain + noise[1]).clamp(0, 1), flow=flow)


def random_flow(size: int, shape: tuple[int, int], max_motion: float, rng: torch.Generator) -> Tensor:
    """Smooth random flow fields ``(size, 2, H, W)`` in pixels: similarity motion plus a smooth deformation.

    The typical length of each field is drawn with density falling off towards ``max_motion``, since most real motion is
    small: about one field in four moves by less than a pixel. One in eight has the deformation alone.
    """

    def uniform(*dims: int) -> Tensor:
        """Numbers from -1 to 1."""
        return 2 * torch.rand(*dims, generator=rng) - 1

    height, width = shape
    length = max_motion * torch.rand(size, 1, 1, 1, generator=rng) ** 2.5
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    position = torch.stack((x, y)).expand(size, 2, height, width)
    turned = torch.stack((-y, x)).expand(size, 2, height, width)
    coarse = F.interpolate(uniform(size, 2, 4, 5), (height, width), mode="bicubic", align_corners=True)
    fine = F.interpolate(uniform(size, 2, 9, 11), (height, width), mode="bicubic", align_corners=True)
    shift, zoom, roll = uniform(size, 2, 1, 1), 0.5 * uniform(size, 1, 1, 1), 0.5 * uniform(size, 1, 1, 1)
    bend = torch.rand(size, 1, 1, 1, generator=rng)
    still = (torch.rand(size, 1, 1, 1, generator=rng) > 0.125).float()
    return length * (still * (shift + zoom * position + roll * turned) + bend * (0.6 * coarse + 0.25 * fine))


def _with_dummy_masks(clip: Clip) -> Clip:
    return Clip(clip.name, clip.frames, clip.fps, torch.zeros(1, dtype=torch.int64).expand(len(clip), *clip.size))


class Steps(Dataset):
    """Batches by step, as a data set that other processes can read ahead from.

    Args:
        source: has ``batch(size, seed, step)``.
        size: of a batch.
        seed: of the training run.
    """

    def __init__(self, source, size: int, seed: int):
        self.source, self.size, self.seed = source, size, seed

    def __getitem__(self, step: int) -> Batch | Exception:
        """One batch, or why there is none: an error that is raised in another process arrives as a page of traceback."""
        try:
            return self.source.batch(self.size, self.seed, step)
        except (DffError, OSError) as error:
            return error

    def upcoming(self, numbers: range, processes: int = 0) -> Generator[Batch, None, None]:
        """The batches of some steps, in order.

        Args:
            numbers: the steps.
            processes: that make them ahead; 0 makes each when it is asked for, and so does a source from the script or
                notebook that is running, which other processes cannot import.

        Raises:
            DffError: a batch cannot be made, or one of the processes was ended from outside.
        """
        count = processes if processes and self._is_picklable() else 0
        # From nothing: a process forked from one with threads may wait for ever, for a lock that one of these held.
        clean = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        loader = DataLoader(
            self, batch_size=None, sampler=numbers, num_workers=count, worker_init_fn=_begin_worker,
            multiprocessing_context=clean if count else None,
        )  # fmt: skip
        with _isolated() if count else nullcontext():
            batches = iter(loader)
        try:
            for batch in batches:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        except RuntimeError as error:
            if not re.search("DataLoader worker.*(exited|killed)", str(error)):
                raise
            raise DffError(
                f"a process that makes training batches has ended ({str(error).splitlines()[0]}): this machine may be short "
                f"of memory, and the same command continues."
            ) from None

    def _is_picklable(self) -> bool:
        try:
            return b"__main__" not in pickle.dumps(self.source)
        except Exception:  # whatever a class of the user's makes pickle raise
            return False


@contextmanager
def _isolated() -> Iterator[None]:
    """What is started here does not run the main script again, which may have no main guard; and signals to the whole group,
    as a terminal sends them, do not reach it: it ends with its trainer, which may want to finish a step."""
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
    main["__spec__"] = None
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if masks else ()
    if masks:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # which unblocks signals
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        main.update(kept)
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(_: int) -> None:
    """One thread for OpenCV, as PyTorch has; and an end with the trainer, however that ends.

    PyTorch's own watch looks at the parent, which here is the fork server; and that lives as long as its workers.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()

    def end_with_the_trainer() -> None:
        """Wait for the end of the process that started this one, then end too."""
        if trainer is not None:
            trainer.join()
            os._exit(1)

    threading.Thread(target=end_with_the_trainer, name="trainer", daemon=True).start()
