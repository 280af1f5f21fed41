"""The intensity-threshold dummy data set of the Julia prototype: labels for any video, at no labelling cost.

A pixel is *object* when its normalised intensity exceeds 0.1, else *background*. The prototype does not say how intensity was
normalised; here the grey value (ITU-R 601) is standardised with the mean and standard deviation **of the whole clip's
training split**: zero mean means that both classes occur in any picture that is not flat, and constants that do not change
from frame to frame mean that a label changes only where the picture does.

One refinement makes the task a *video* task: labels are read from a slightly blurred picture, so that they follow surfaces
and edges rather than the sensor's noise, which no propagation could carry.
"""

from functools import lru_cache

import cv2
import torch
from torch import Tensor

from dfflib.data.clips import SPLITS, Clip, split_in_time
from dfflib.data.stacks import LazyStack
from dfflib.data.video import SAMPLE_NAMES, open_video, sample_clip

THRESHOLD = 0.1
BLUR = 1.0  # standard deviation in pixels, at the size the clip is used at
CLASS_NAMES = ("background", "object")


def intensity(frame: Tensor, blur: float = BLUR) -> Tensor:
    """Grey value of a frame ``(3, H, W)`` uint8, in [0, 1], blurred: ``(H, W)`` float32."""
    grey = cv2.cvtColor(frame.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY).astype("float32") / 255
    return torch.from_numpy(cv2.GaussianBlur(grey, (0, 0), blur) if blur > 0 else grey)


def intensity_statistics(clip: Clip, num_frames: int = 16, blur: float = BLUR) -> tuple[float, float]:
    """Mean and standard deviation of intensity over evenly spaced frames of a clip."""
    step = max(1, len(clip) // num_frames)
    values = torch.stack([intensity(clip.frames[i], blur) for i in range(0, len(clip), step)])
    return values.mean().item(), max(values.std().item(), 1 / 255)  # a flat clip: rounding must not make objects


def threshold_clip(
    clip: Clip, threshold: float = THRESHOLD, normalisation: tuple[float, float] | None = None, blur: float = BLUR
) -> Clip:
    """A clip's frames with intensity-threshold masks, every frame labelled, computed when asked for.

    Args:
        clip: any clip; its own masks, if it has some, are not used.
        threshold: in standard deviations above the mean.
        normalisation: ``(mean, std)`` of intensity; None takes them from this clip. Give the training split's to val and test.
        blur: see the module's text.
    """
    mean, std = normalisation or intensity_statistics(clip, blur=blur)

    def mask(index: int) -> Tensor:
        """Labels of one frame, ``(H, W)`` int64."""
        return ((intensity(clip.frames[index], blur) - mean) / std > threshold).long()

    return Clip(clip.name, clip.frames, clip.fps, LazyStack(mask, len(clip)), class_names=CLASS_NAMES, times=clip.times)


@lru_cache(maxsize=16)
def threshold_set(split: str, short_side: int = 144, names: tuple[str, ...] = SAMPLE_NAMES) -> tuple[Clip, ...]:
    """One split of the intensity-threshold data set, a clip for each video, frames decoded once and kept in memory.

    Intensity is normalised with the statistics of the video's train split, whatever split is asked for.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``: the first 60%, the next 15% and the last 25% of the frames, ten frames
            apart.
        short_side: frames are resized so that the shorter side has this many pixels.
        names: sample clips, or paths of videos.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: choose one of {', '.join(SPLITS)}.")
    clips = []
    for name in names:
        video = sample_clip(name, short_side) if name in SAMPLE_NAMES else open_video(name, short_side)
        splits = split_in_time(video)
        labelled = threshold_clip(splits[split].in_memory(), normalisation=intensity_statistics(splits["train"]))
        labelled.masks = torch.stack([labelled.mask(i) for i in range(len(labelled))])  # a few megabytes, read often
        clips.append(labelled)
    return tuple(clips)
