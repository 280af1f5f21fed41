"""Pictures of ground truth: classes, objects, boxes, flow, occlusion and tracks, each drawn over the frame it belongs to."""

import cv2
import numpy as np
import torch
from torch import Tensor

from dfflib.data.clips import Boxes, Clip
from dfflib.viz.colours import CLASS_COLOURS, flow_to_rgb, overlay, to_image

VIEWS = ("frame", "classes", "objects", "boxes", "flow", "occlusion", "tracks")
OCCLUDED, OUT_OF_VIEW = (209, 96, 61), (42, 111, 151)  # orange, blue


def truth(clip: Clip, i: int, k: int, view: str, max_motion: float | None = None, scale: int = 3) -> np.ndarray:
    """One kind of ground truth of frame i, as a picture.

    Args:
        clip: any clip that has it (``clip.has_flow``, say).
        i: the (current) frame.
        k: the other (key) frame, for flow, occlusion and tracks; the others do not look at it.
        view: one of `VIEWS`.
        max_motion: length in pixels of the flow with the fullest colour; None takes the longest of this field.
        scale: whole number that the picture is enlarged by, so that lines are thinner than pixels.

    Returns:
        uint8 ``(H * scale, W * scale, 3)``.

    Raises:
        ValueError: no such view.
    """
    if view not in VIEWS:
        raise ValueError(f"view is {view!r}: choose one of {', '.join(VIEWS)}.")
    frame = clip.frames[i]
    if view == "classes":
        return enlarge(overlay(frame, clip.mask(i)), scale)
    if view == "objects":
        return enlarge(overlay(frame, clip.instance_mask(i)), scale)
    if view == "boxes":
        return draw_boxes(frame, clip.boxes(i), clip.class_names, scale)
    if view == "flow":
        return enlarge(flow_to_rgb(clip.flow(i, k), max_motion), scale)
    if view == "occlusion":
        return enlarge(tint(frame, clip.occluded(i, k), clip.out_of_view(i, k)), scale)
    if view == "tracks":
        return draw_tracks(clip, i, k, scale)
    return enlarge(to_image(frame), scale)


def labelled(clip: Clip) -> np.ndarray:
    """A labelled frame from the middle of a clip, its masks or else its boxes drawn over it: uint8 ``(H, W, 3)``."""
    chosen = clip.labelled if len(clip.labelled) else range(len(clip))
    i = chosen[len(chosen) // 2]
    if clip.masks is not None:
        return overlay(clip.frames[i], clip.mask(i))
    return draw_boxes(clip.frames[i], clip.boxes(i), clip.class_names, scale=1)


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel as a square of ``scale`` by ``scale``."""
    return np.ascontiguousarray(picture.repeat(scale, 0).repeat(scale, 1))


def tint(frame: Tensor, occluded: Tensor, out_of_view: Tensor) -> np.ndarray:
    """A grey frame with occluded pixels in orange and pixels that come from outside the picture in blue."""
    grey = to_image(frame).mean(-1, keepdims=True).repeat(3, -1)
    for places, colour in ((occluded & ~out_of_view, OCCLUDED), (out_of_view, OUT_OF_VIEW)):
        grey = np.where(places.numpy()[..., None], 0.25 * grey + 0.75 * np.array(colour), grey)
    return grey.astype(np.uint8)


def draw_boxes(frame: Tensor, boxes: Boxes, class_names: tuple[str, ...], scale: int = 3) -> np.ndarray:
    """A frame with boxes, each with its class and track number; those of partly hidden objects are drawn thin."""
    picture = enlarge(to_image(frame), scale)
    for n, (box, label, track) in enumerate(
        zip(boxes.boxes, boxes.labels.tolist(), boxes.tracks.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = (box * scale).round().int().tolist()
        colour = tuple(int(c) for c in CLASS_COLOURS[label % len(CLASS_COLOURS)])
        hidden = boxes.occluded is not None and bool(boxes.occluded[n])
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, 1 if hidden else 2)
        place = (max(x1 + 3, 2), min(max(y1 + 12, 12), picture.shape[0] - 4))
        for width, ink in ((3, (0, 0, 0)), (1, (255, 255, 255))):
            cv2.putText(
                picture, f"{class_names[label]} {track}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, width, cv2.LINE_AA
            )
    return picture


def draw_tracks(clip: Clip, i: int, k: int, scale: int = 3, spacing: int = 10) -> np.ndarray:
    """Where the points of a grid in frame i come from: lines to their places in frame k, broken where they were hidden."""
    height, width = clip.size
    y, x = torch.meshgrid(torch.arange(4, height, spacing), torch.arange(4, width, spacing), indexing="ij")
    tracks = clip.track(i, torch.stack((x, y), -1).reshape(-1, 2).double())
    picture = enlarge((0.55 * to_image(clip.frames[i]) + 40).astype(np.uint8), scale)
    step = 1 if k > i else -1
    places = ((tracks.points + 0.5) * scale).round().int().numpy()
    for now, after in zip(range(i, k, step), range(i + step, k + step, step), strict=True):
        for p in np.flatnonzero((tracks.visible[now] & tracks.visible[after]).numpy()).tolist():
            colour = tuple(int(c) for c in CLASS_COLOURS[1 + int(tracks.instances[p]) % (len(CLASS_COLOURS) - 1)])
            cv2.line(picture, places[now, p].tolist(), places[after, p].tolist(), colour, 1, cv2.LINE_AA)
    for p, place in enumerate(places[i]):
        seen = bool(tracks.visible[k, p])
        cv2.circle(picture, place.tolist(), 2, (255, 255, 255) if seen else OCCLUDED, -1, cv2.LINE_AA)
    return picture
