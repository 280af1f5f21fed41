"""Frames and label maps as stacks that are indexed like a tensor, and read or rendered when they are asked for."""

import operator
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


class LazyStack:
    """A stack of tensors that are made one by one, on demand: ``stack[i]``, ``stack[a:b]``, ``stack[[i, j]]``.

    Indices may be negative, NumPy integers, or a 1-D array or tensor of whole numbers or of one bool per item, as for a
    tensor; an empty selection has shape ``(0, ...)``. A slice may also run backward.

    Args:
        make: index -> tensor; called with ``0 <= index < length``.
        length: number of items.
        close: frees what ``make`` holds, until it is called again.
    """

    def __init__(self, make: Callable[[int], Tensor], length: int, close: Callable[[], None] | None = None):
        self._make, self._length, self._close = make, length, close

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: int | slice | Sequence[int] | Tensor) -> Tensor:
        if isinstance(key, slice):
            key = range(*key.indices(self._length))
        elif isinstance(key, (Tensor, np.ndarray)):
            key = self._numbers(np.asarray(key))
        if not isinstance(key, Iterable):
            return self._make(self._inside(operator.index(key)))
        items = [self._make(self._inside(operator.index(i))) for i in key]
        return torch.stack(items) if items else self._make(0)[None][:0]

    def close(self) -> None:
        """Free what is open behind the items. Asking for one opens it again."""
        if self._close is not None:
            self._close()

    def _numbers(self, key: np.ndarray) -> int | list[int]:
        """Indices from an array: whole numbers, or one bool per item of the stack."""
        if key.ndim > 1 or key.dtype.kind not in "iub" or (key.dtype == bool and len(np.atleast_1d(key)) != len(self)):
            raise IndexError(f"{len(self)} frames have no index of shape {key.shape} and type {key.dtype}")
        return np.flatnonzero(key).tolist() if key.dtype == bool else key.tolist()

    def _inside(self, index: int) -> int:
        if not -self._length <= index < self._length:
            raise IndexError(f"frame {index} of a clip of {self._length} frames")
        return index % self._length


Stack = Tensor | LazyStack
"""Items by index, slice or list of indices: in memory, or made on demand."""
