"""Flow made to fit the pictures: a variational refinement by OpenCV (Brox et al., ECCV 2004, as in DIS), on the CPU.

What a network says on a coarse grid is right to a fraction of its cell. A few steps towards the flow that explains grey values
and their gradients, and is smooth elsewhere, find the fraction of a pixel. They find no other motion: the start must be right.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from dfflib.machine import in_threads

ITERATIONS = (2, 5)  # linearisations, and steps of over-relaxation in each
WEIGHTS = (10.0, 10.0, 10.0)  # of smoothness, of grey values, and of their gradients
RELAXATION = 1.9


@torch.no_grad()
def fitted(flow: Tensor, keys: Tensor, currents: Tensor) -> Tensor:
    """The flow that fits pictures best, near the one given; there is no gradient.

    Args:
        flow: ``(N, 2, h, w)``, from current to key, in pixels.
        keys: grey values, uint8 ``(N, h, w)``, one for each current picture or one for all.
        currents: likewise.

    Returns:
        ``(N, 2, h, w)``, as the flow given.
    """
    starts = flow.permute(0, 2, 3, 1).float().cpu().contiguous().numpy()
    items = list(zip(starts, currents.numpy(), keys.expand_as(currents).numpy(), strict=True))
    found = torch.from_numpy(np.concatenate(in_threads(_refined, items)))
    return found.permute(0, 3, 1, 2).to(flow)


def _refined(items: list[tuple[np.ndarray, ...]]) -> np.ndarray:
    method = cv2.VariationalRefinement.create()
    method.setFixedPointIterations(ITERATIONS[0])
    method.setSorIterations(ITERATIONS[1])
    for put, weight in zip((method.setAlpha, method.setDelta, method.setGamma), WEIGHTS, strict=True):
        put(weight)
    method.setOmega(RELAXATION)
    return np.stack([method.calc(current, key, start.copy()) for start, current, key in items])
