"""The data set of the first notebooks: real clips with intensity-threshold labels, split in time."""

from functools import lru_cache

from dfflib.data.clips import Clip, split_in_time
from dfflib.data.threshold import statistics, threshold_clip
from dfflib.data.video import SAMPLE_NAMES, open_video, sample_clip

PARTS = ("train", "val", "test")


@lru_cache(maxsize=16)
def threshold_set(part: str, short_side: int = 144, names: tuple[str, ...] = SAMPLE_NAMES) -> tuple[Clip, ...]:
    """One part of the intensity-threshold data set, a clip for each video, frames decoded once and kept in memory.

    Intensity is normalised with the statistics of the video's train part, whatever part is asked for.

    Args:
        part: ``"train"``, ``"val"`` or ``"test"``: the first 60%, the next 15% and the last 25% of the frames, ten frames
            apart.
        short_side: frames are resized so that the shorter side has this many pixels.
        names: sample clips, or paths of videos.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}: choose one of {', '.join(PARTS)}.")
    clips = []
    for name in names:
        video = sample_clip(name, short_side) if name in SAMPLE_NAMES else open_video(name, short_side)
        parts = split_in_time(video)
        labelled = threshold_clip(parts[part].in_memory(), normalisation=statistics(parts["train"]))
        labelled.masks = labelled.masks[:]  # a few megabytes, read many times
        clips.append(labelled)
    return tuple(clips)
