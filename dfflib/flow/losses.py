"""How wrong a flow is: the end-point error, and the loss over all levels of a flow network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dfflib.warp import known, resample, resize_flow


def end_point_error(flow: Tensor, ground_truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean length of the difference, in pixels of the flow's grid, over the valid pixels whose ground truth is known.

    Args:
        flow, ground_truth: ``(N, 2, H, W)``; see `dfflib.warp.known`.
        valid: bool, broadcastable to ``(N, 1, H, W)``; None counts every pixel whose ground truth is known.
    """
    valid = _valid(ground_truth, valid)
    if valid is None:
        return (flow - ground_truth).square().sum(1, keepdim=True).add(1e-12).sqrt().mean()
    error = torch.where(valid, flow - ground_truth, 0).square().sum(1, keepdim=True).add(1e-12).sqrt()
    valid = valid.expand_as(error)
    return (error * valid).sum() / valid.sum().clamp(min=1)


def _valid(ground_truth: Tensor, valid: Tensor | None) -> Tensor | None:
    """The pixels that count: those of known ground truth among the valid ones; None for all."""
    seen = known(ground_truth)
    if seen.all():
        return valid
    return seen if valid is None else valid & seen


def multiscale_loss(predictions: list[Tensor], ground_truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Flow pre-training loss: end-point error at every decoder level, in image pixels, the finest counting most.

    FlowNet weighs its levels so too; each coarser level counts half of the next finer one.

    Args:
        predictions: from ``FlowNetwork.predictions``, coarse to fine, each in pixels of its own grid.
        ground_truth: exact flow at image size, ``(N, 2, H, W)``; of any value, also NaN, where it is not valid.
        valid: pixels whose flow counts, bool ``(N, 1, H, W)``; None takes all that are known. A cell of a coarse level counts
            if more than half of its pixels are valid, and its ground truth is their mean.
    """
    width, valid = ground_truth.shape[-1], _valid(ground_truth, valid)
    losses = [
        end_point_error(p, *_shrunk(ground_truth, valid, p.shape[-2:])) * (width / p.shape[-1]) for p in predictions
    ]
    weights = [0.5**level for level in range(len(losses))][::-1]
    return sum((w * loss for w, loss in zip(weights, losses, strict=True)), ground_truth.new_zeros(())) / sum(weights)


def _shrunk(ground_truth: Tensor, valid: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """The true flow on a coarse grid, from valid pixels alone; and which cells have enough of them, or None for all."""
    if valid is None:
        return resize_flow(ground_truth, size), None
    share = resample(valid.to(ground_truth.dtype), size)
    known = resize_flow(torch.where(valid, ground_truth, 0), size)  # 0 where unknown: divide by the share
    return known / torch.where(share > 0, share, 1), share > 0.5
