"""The one warp of the workbook: bilinear look-up of key-frame features along a flow field (paper, section 3, eq. 1-4).

Conventions, here and everywhere:
    flow runs **from the current frame to the key frame** (backward flow): ``flow[:, :, y, x]`` says where, relative to
    ``(x, y)``, the content of that pixel lies in the key frame. Channel 0 is x (right), channel 1 is y (down), in pixels
    of the flow's own grid. Integer coordinates are pixel centres, so the corners of the map are the centres of its corner
    pixels (``align_corners=True`` in the words of ``grid_sample``), and zero flow is *exactly* the identity.

Known traps in other code, absent here: dividing a grid by W where W-1 is meant (the far edge drifts by up to a pixel),
leaving ``align_corners`` at its default of False (up to half a pixel), resizing a flow without rescaling its values.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_MODES = ("zeros", "border")
UNKNOWN = 1e9
"""A component that long marks an unknown vector of a published flow (Middlebury writes 1.666e9 and 1e10)."""

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def base_grid(height: int, width: int, device=None, dtype=torch.float32) -> Tensor:
    """Coordinates of every pixel centre, ``(1, 2, H, W)``: channel 0 is x, channel 1 is y."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype), torch.arange(width, device=device, dtype=dtype), indexing="ij"
    )
    return torch.stack((x, y))[None]


def warp(features: Tensor, flow: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Carry key-frame features to the current frame: ``out(p) = sum_q G(q, p + flow(p)) features(q)`` (eq. 1-2).

    ``G(q, p) = max(0, 1 - |q_x - p_x|) max(0, 1 - |q_y - p_y|)``: four neighbours of the point, weighted bilinearly. The
    weights are formed from absolute pixel coordinates, never from a normalised grid, so zero flow returns the features
    and a whole-pixel flow shifts them without rounding. Differentiable in features and flow (eq. 4 follows by autograd;
    at integer positions, where G has a kink, the derivative is that of the right-hand piece).

    The look-up reads all channels of a neighbour as one row of a table (``embedding_bag``), on every device, and so does the
    gradient to the features. Channels-last features are such a table already; others are copied into one. The result is
    channels-last in memory. There is no second derivative.

    Args:
        features: ``(N, C, H, W)``, any floating dtype; feature maps of the key frame.
        flow: ``(N, 2, h, w)``, current -> key, in pixels of ``features``; usually ``(h, w) == (H, W)``. ``N`` of either
            argument may be 1: it is then shared by the whole batch.
        padding_mode: ``"zeros"``: neighbours outside the map count as 0 (the paper's sum, the authors' code);
            ``"border"``: the edge repeats (as mmtracking does).

    A feature that is no number reaches the points that it has a weight in and no others. (Where the flow wants a gradient,
    the right-hand neighbour of a whole-pixel point counts as one, for the derivative needs it.)

    Returns:
        ``(N, C, h, w)`` in the dtype of ``features``.

    Raises:
        ValueError: shapes, padding mode or dtype do not fit.

    Example: with ``flow = 0`` the result equals ``features``; with x-flow 1 it is ``features`` moved one pixel left.
    """
    _require_fit(features, flow, padding_mode)
    (batch, channels, height, width), (flows, _, out_h, out_w) = features.shape, flow.shape
    count = max(batch, flows) if min(batch, flows) else 0
    if not count * out_h * out_w:
        nothing = features.flatten()[:0] + flow.flatten()[:0].to(features.dtype)  # with a gradient, which is 0
        return nothing.view(count, channels, out_h, out_w)
    integers = _integers(count * height * width, count * out_h * out_w)
    corner, weight, outside = _neighbours(flow, height, width, padding_mode, integers)  # two of (flows, h, w, 4)
    if batch > 1:  # row numbers of image n start at n * H * W
        first_row = torch.arange(batch, device=flow.device, dtype=integers).view(-1, 1, 1, 1) * (height * width)
        corner = corner + first_row
        weight = weight.expand(batch, -1, -1, -1) if flows == 1 else weight
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)  # a view when features are channels-last
    corner, weight = corner.reshape(-1, 4), weight.reshape(-1, 4).to(table.dtype)
    if outside is not None:
        # With weights of 0, these points may look at any row: all at one, so that one tells whether 0 times that is 0.
        outside = outside.expand(count, -1, -1).flatten().nonzero()[:, 0]
        corner.index_fill_(0, outside, 0)
        outside = None if table[0].isfinite().all() else outside
    if torch.is_grad_enabled() and (table.requires_grad or weight.requires_grad):
        rows = _LookUp.apply(table, corner, weight, outside)
    else:
        rows = F.embedding_bag(corner, table, per_sample_weights=weight, mode="sum")
        rows = rows if outside is None else rows.index_fill_(0, outside, 0)
    return rows.view(count, out_h, out_w, channels).permute(0, 3, 1, 2)


def _require_fit(features: Tensor, flow: Tensor, padding_mode: str) -> None:
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode is {padding_mode!r}: choose one of {', '.join(PADDING_MODES)}.")
    if features.ndim != 4 or flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(
            f"warp takes features (N, C, H, W) and flow (N, 2, h, w), got {tuple(features.shape)} and {tuple(flow.shape)}."
        )
    if not all(features.shape[1:]):
        raise ValueError(f"warp takes features of one channel and one cell at least, got {tuple(features.shape)}.")
    if features.dtype not in DTYPES or flow.is_complex():
        raise ValueError(
            f"features are {features.dtype} and flow is {flow.dtype}: make them floating-point numbers, say by .float()."
        )
    if features.shape[0] != flow.shape[0] and 1 not in (features.shape[0], flow.shape[0]):
        raise ValueError(f"batch sizes differ: {features.shape[0]} feature maps and {flow.shape[0]} flow fields.")


def _integers(cells: int, points: int) -> torch.dtype:
    """The type of row numbers: of the table and of the four neighbours of each point. The shorter ones are read faster."""
    return torch.int32 if max(cells, 4 * points) < 2**31 else torch.int64


class _LookUp(torch.autograd.Function):
    """Weighted sums of four rows of a table, ``(P, C)``, whose gradient to the table is a look-up too.

    A row of the table gets a share of the gradient of every point that looked at it. Sorted by row, these points are bags
    like the four neighbours of a point, so the same fast ``embedding_bag`` sums them. Its own backward pass, which takes
    several times as long for few channels, adds them up in the same order: the results are equal to the last bit.
    """

    @staticmethod
    def forward(ctx, table: Tensor, corner: Tensor, weight: Tensor, outside: Tensor | None) -> Tensor:
        """Rows ``(P, C)`` from table ``(M, C)``, row numbers and weights ``(P, 4)``, and numbers of points outside."""
        with torch.enable_grad():  # the gradient to the weights is left to PyTorch
            inner = weight.detach().requires_grad_(ctx.needs_input_grad[2])
            rows = F.embedding_bag(corner, table.detach(), per_sample_weights=inner, mode="sum")
        ctx.save_for_backward(corner, weight, outside)
        ctx.rows, ctx.inner, ctx.length = rows, inner, len(table)
        rows = rows.detach()
        return rows if outside is None else rows.index_fill_(0, outside, 0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients to table and weights."""
        second, (corner, weight, outside), to_table, to_weight = torch.is_grad_enabled(), ctx.saved_tensors, None, None
        grad, weight = grad.detach().contiguous(), weight.detach()
        if outside is not None:
            grad = grad.index_fill(0, outside, 0)
        if ctx.needs_input_grad[0]:
            row, order = corner.flatten().sort(stable=True)
            end = torch.bincount(row, minlength=ctx.length).cumsum(0)
            first = F.pad(end[:-1], (1, 0)).to(corner.dtype)  # of each row of the table, in `order`
            to_table = F.embedding_bag(
                (order >> 2).to(corner.dtype), grad, first, per_sample_weights=weight.take(order), mode="sum"
            )
        if ctx.needs_input_grad[2]:
            (to_weight,) = torch.autograd.grad(ctx.rows, ctx.inner, grad, retain_graph=True)
            to_weight = to_weight if outside is None else to_weight.index_fill(0, outside, 0)
        if second:  # somebody wants the graph of this: better no second derivative than half of one
            to_table, to_weight = (
                found if found is None else _Last.apply(found.requires_grad_()) for found in (to_table, to_weight)
            )
        return to_table, None, to_weight, None


class _Last(torch.autograd.Function):
    """A gradient that cannot be differentiated again."""

    @staticmethod
    def forward(ctx, grad: Tensor) -> Tensor:
        """The gradient as it is, at the end of a graph."""
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx, *_):
        """Refuse."""
        raise RuntimeError("warp has no second derivative: take create_graph=True away, or warp with grid_sample.")


def _neighbours(
    flow: Tensor, height: int, width: int, padding_mode: str, integers: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Row numbers, as ``integers``, and weights of the four neighbours of each sample point, both ``(N, h, w, 4)``; and which
    points have no neighbour in the map, ``(N, h, w)`` bool, or None for none.

    Positions are formed in float32 at least: in bfloat16 they would be wrong by a pixel from 256 on.
    """
    dtype = torch.promote_types(flow.dtype, torch.float32)
    rows, columns = (torch.arange(side, device=flow.device, dtype=dtype) for side in flow.shape[-2:])
    axes, outside = [], None
    for position, size in ((flow[:, 0].to(dtype) + columns, width), (flow[:, 1].to(dtype) + rows[:, None], height)):
        # One cell beyond the edge every weight is 0 already; clamping there keeps far-away points out of integer overflow.
        low, high = (-1, size) if padding_mode == "zeros" else (0, size - 1)
        position = position.clamp(low, high)
        left = position.detach().floor()
        right_weight = position - left
        left_weight = 1 - right_weight
        if padding_mode == "zeros":
            # `left` is a whole number from -1 to size, so that clamped differences are 1 inside and 0 outside: a tenth of
            # the time of comparisons
            left_weight = left_weight * (left + 1).clamp_(max=1) * (size - left).clamp_(max=1)
            right_weight = right_weight * (size - 1 - left).clamp_(0, 1)
            first, last = position.detach().aminmax()
            if first <= -1 or last >= size:
                beyond = (left_weight + right_weight).detach() == 0
                outside = beyond if outside is None else outside | beyond
        index = left.to(integers)
        # A whole-pixel point has no right-hand neighbour: its own cell stands in with weight 0.
        after = index + 1 if right_weight.requires_grad else position.ceil().to(integers)
        axes.append((index.clamp(0, size - 1), after.clamp_(0, size - 1), left_weight, right_weight))
    (left, right, left_weight, right_weight), (top, bottom, top_weight, bottom_weight) = axes
    top, bottom = top * width, bottom * width
    corner = [row + column for row in (top, bottom) for column in (left, right)]
    weight = [y * x for y in (top_weight, bottom_weight) for x in (left_weight, right_weight)]
    # stacked as planes and turned, in a third of the time of stacking along the last axis
    corners, weights = (torch.stack(parts).permute(1, 2, 3, 0).contiguous() for parts in (corner, weight))
    return corners, weights, outside


def resize_flow(flow: Tensor, size: Sequence[int]) -> Tensor:
    """Resample a flow field to another grid **and rescale its values** to pixels of that grid.

    The image plane is divided into H x W equal cells, so a grid of ``h`` rows has cells ``H / h`` times as high, and
    y-displacements shrink by ``h / H``; likewise for x. Enlarging interpolates bilinearly; shrinking averages over the
    area that falls into each new cell (the paper's parameter-free bilinear reduction by two is exactly that average).

    Args:
        flow: ``(N, 2, H, W)``.
        size: ``(h, w)`` of the result.

    Returns:
        ``(N, 2, h, w)``. The size it has already is returned unchanged.

    Example: a flow of 8 px at full size is 0.5 cells at stride 16.
    """
    height, width = flow.shape[-2:]
    if (height, width) == tuple(size):
        return flow
    values = flow.new_tensor([size[1] / width, size[0] / height]).view(1, 2, 1, 1)
    return resample(flow, size) * values


def resample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resample maps ``(N, C, H, W)`` to ``(N, C, h, w)``: bilinear where it enlarges, cell average where it shrinks."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if size[0] <= maps.shape[-2] and size[1] <= maps.shape[-1]:
        return F.interpolate(maps, size=tuple(size), mode="area")
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def compose(first: Tensor, second: Tensor, padding_mode: str = "border") -> Tensor:
    """Chain two backward flows: from frame i to j and from j to k, into i to k.

    ``chained(p) = first(p) + second(p + first(p))``: follow the first flow, and read the second one where it lands.

    Args:
        first: ``(N, 2, H, W)``, from i to j.
        second: ``(N, 2, H, W)``, from j to k, same grid.
        padding_mode: how ``second`` continues outside the image.

    Returns:
        ``(N, 2, H, W)``, from i to k.
    """
    return first + warp(second, first, padding_mode)


def forward_backward_check(
    flow: Tensor, reverse: Tensor, alpha: float = 0.01, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Find pixels whose flow there and flow back do not cancel: occluded, out of view, or simply wrong.

    A pixel is consistent when ``|there + back|^2 <= alpha (|there|^2 + |back|^2) + beta`` (Sundaram, Brox and Keutzer,
    ECCV 2010), where ``back`` is the reverse flow read at the point that ``there`` leads to.

    Args:
        flow: ``(N, 2, H, W)``, from the current frame to the key frame.
        reverse: ``(N, 2, H, W)``, from the key frame to the current frame.
        alpha: tolerated share of the squared motion.
        beta: tolerated squared error at rest, in squared pixels.

    Returns:
        ``(consistent, error)``: bool ``(N, 1, H, W)``, False also where the point leaves the image; and the length of
        ``there + back`` in pixels, ``(N, 1, H, W)``.
    """
    back = warp(reverse, flow, "border")
    squared_error = (flow + back).square().sum(1, keepdim=True)
    squared_motion = flow.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    consistent = (squared_error <= alpha * squared_motion + beta) & in_view(flow)
    return consistent, squared_error.sqrt()


def known(flow: Tensor) -> Tensor:
    """Where a flow ``(..., 2, H, W)`` is known, bool ``(..., 1, H, W)``: not NaN, infinite, or as long as `UNKNOWN`.

    Losses, errors and colours leave the other pixels out; ``(~known(flow)).sum()`` counts them. Ask before a flow is resized
    or composed, which mixes a pixel with its neighbours.
    """
    return (flow.abs() < UNKNOWN).all(-3, keepdim=True)


def in_view(flow: Tensor) -> Tensor:
    """True where ``p + flow(p)`` lies inside the map, edge pixels included; ``(N, 1, H, W)`` bool."""
    height, width = flow.shape[-2:]
    point = base_grid(height, width, flow.device, torch.promote_types(flow.dtype, torch.float32)) + flow
    x, y = point[:, :1], point[:, 1:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
