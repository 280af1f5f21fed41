"""Checkpoints: weights in safetensors, with what they are written in the file's header.

The header (`dfflib.models.headers`) holds the model's description, so that it can be rebuilt, and how it was trained. Nothing
in a file is believed: names and shapes must be those of the model that is described, before memory is taken for either. The
weights must be those that were written; without a checksum, finite numbers. A file of another model, or a damaged one, is
refused with one sentence.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dfflib.errors import DffError
from dfflib.models import headers
from dfflib.models.build import Config, build, outline
from dfflib.models.dff import DeepFeatureFlow
from dfflib.paths import write_atomically

AGAIN = "fetch or train it again."
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
MAX_HEADER = 2**22  # bytes; that of a ResNet-101 takes 80 thousand
MAX_UNTRAINED = 10**8  # numbers in parts that a file does not hold; a ResNet-101 has 61 million, a FlowNet 39


@dataclass(frozen=True)
class Checkpoint:
    """What is in a checkpoint file, read once.

    Attributes:
        path: the file, for messages.
        config: all keyword arguments of `dfflib.models.build.build`.
        about: stage, seed, steps, device, data, metrics.
        weights: name -> tensor, in the precision in which it is stored.
    """

    path: Path
    config: Config
    about: dict[str, Any]
    weights: dict[str, Tensor]


def save_checkpoint(
    path: str | os.PathLike, model: DeepFeatureFlow, config: Config, parts: tuple[str, ...] = ("",), **about: Any
) -> Path:
    """Write weights and description, atomically.

    Args:
        path: ``.safetensors`` file.
        model: its ``state_dict`` is stored.
        config: keyword arguments of `dfflib.models.build.build`.
        parts: prefixes of the tensors to store (``"flow_source."``, say): a stage stores what it has trained.
        about: anything JSON can hold: stage, seed, steps, device, data, metrics.

    Raises:
        DffError: a value that the header cannot have (`dfflib.models.headers.ABOUT`, `dfflib.models.build.NETWORKS`).
    """
    stored = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(tuple(parts))}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in stored.items()}
    return _write(path, weights, config, about)


def store_half(source: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Copy a checkpoint with its weights in half precision, which takes half the space: the form in which files are shipped.

    Weights are rounded to eleven bits; loading turns them into float32 again, and no accuracy of the workbook changes in the
    digits that it prints.

    Raises:
        DffError: ``source`` is no checkpoint, or holds a number too large for half precision.
    """
    read = read_checkpoint(source)
    weights = _in_half(read.weights)
    large = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if large:
        raise DffError(
            f"{source} cannot be stored in half precision: {large[0]} holds numbers above 65504, so copy it as it is."
        )
    return _write(target, weights, read.config, {**read.about, "stored": "float16"})


def _in_half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors, whatever file they come from: names in order, and of each its dtype, its shape and its bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def as_shipped(path: str | os.PathLike) -> tuple[str, Config, dict[str, Any]]:
    """What a checkpoint is in the form in which it ships: `tensor_digest` of its weights in half precision, model and facts.

    Equal for a shipped file and the file that it was made from, whatever versions of dfflib wrote the two.
    """
    read = read_checkpoint(path)
    return tensor_digest(_in_half(read.weights)), read.config, {**read.about, "stored": "float16"}


def _write(path: str | os.PathLike, weights: dict[str, Tensor], config: object, about: dict[str, Any]) -> Path:
    return write_atomically(path, save(weights, headers.write(config, about, tensor_digest(weights))))


def read_checkpoint(path: str | os.PathLike | Checkpoint) -> Checkpoint:
    """Everything that a file holds, from one opening of it; what was read before is given back.

    Raises:
        DffError: no such file, damaged, not one of ours, not the weights of the model that it describes, or no finite numbers.
    """
    if isinstance(path, Checkpoint):
        return path
    path = Path(path)
    with _opened(path) as file:
        metadata, tensors = _header(path, file)
        header = _description(path, metadata)
        expected = _outline(json.dumps(header.config))
        _require_same(path, {name: shape for name, (_, shape) in tensors.items()}, expected)
        for name, (dtype, _) in tensors.items():
            if dtype.is_floating_point != expected[name].is_floating_point():
                raise DffError(f"{path} holds {name} as {dtype}, where a model has {expected[name].dtype}: {AGAIN}")
        file.seek(0)
        data = file.read()
    try:
        weights = load(data)
    except (SafetensorError, ValueError, RuntimeError, AssertionError) as error:
        raise _damaged(path, error) from error
    if header.tensor_sha256 not in (None, tensor_digest(weights)):
        raise _damaged(path, "its tensors are not those that were written")
    for name, tensor in weights.items():
        if not tensor.float().isfinite().all() or (name.endswith("running_var") and (tensor < 0).any()):
            raise DffError(f"{path} holds broken weights ({name} has values that no training leaves): {AGAIN}")
    return Checkpoint(path, header.config, header.about, weights)


def describe(path: str | os.PathLike) -> tuple[Config, dict[str, Any]]:
    """Model description and training facts of a checkpoint, ``(config, about)``; of the weights only the sizes are looked at.

    Raises:
        DffError: no such file, damaged, or not one of ours.
    """
    path = Path(path)
    with _opened(path) as file:
        header = _description(path, _header(path, file)[0])
    return header.config, header.about


def _opened(path: Path) -> BinaryIO:
    """The file, open. A pipe or a device is not opened: it may have no end."""
    try:
        if path.is_file():
            return open(path, "rb")
        there = path.exists()
    except OSError as error:  # no permission, too long a name
        raise DffError(f"{path} cannot be opened ({error.strerror}): name another checkpoint.") from error
    if there:
        raise DffError(f"{path} is a folder, a pipe or a device and no checkpoint: name a .safetensors file.")
    raise DffError(f"there is no checkpoint {path}: train one with `dfflib train`, or name another file.")


def _damaged(path: Path, reason: object) -> DffError:
    first = (str(reason).splitlines() or [type(reason).__name__])[0][:200].rstrip(".")
    return DffError(f"{path} is not a readable checkpoint ({first}): it is damaged or no safetensors file, so {AGAIN}")


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, str], dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
    """A file's metadata, and dtype and shape of each tensor. Nothing else is read, and no size is believed that is not the
    file's own."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(size - 8, MAX_HEADER):
        raise _damaged(path, f"its header would take {length} bytes of {size}")
    try:
        entries = headers.parse(file.read(length).decode())
        metadata, tensors, counted = entries.pop("__metadata__", None) or {}, {}, 8 + length
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata other than text")
        for name, entry in entries.items():
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            if dtype not in DTYPES:
                raise DffError(f"{path} holds {_shown(name)} as {_shown(dtype)}, which no model's weights are: {AGAIN}")
            if len(shape) > 8 or not all(type(side) is int and side >= 0 for side in shape):
                raise ValueError(f"{_shown(name)} has no shape")
            tensors[name] = DTYPES[dtype], shape
            counted += math.prod(shape) * DTYPES[dtype].itemsize
        if counted != size:
            raise ValueError(f"{size} bytes, where its header counts {counted}")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error
    return metadata, tensors


def _shown(name: object) -> str:
    """A name out of a file, fit for a message of one line."""
    return str(name)[:80] if str(name).isprintable() else ascii(str(name)[:80])


def _description(path: Path, metadata: dict[str, str]) -> headers.Header:
    """What a file's metadata tell of the model and its training."""
    try:
        header = headers.read(metadata)
    except (DffError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:300].rstrip(".")
        raise DffError(
            f"{path} has a header that this version of dfflib cannot use ({reason}): it is damaged or of another version, "
            f"so {AGAIN}"
        ) from error
    if header is None:
        raise DffError(f"{path} was not written by dfflib: it names no model. Use a checkpoint of `dfflib train`.")
    return header


@lru_cache(maxsize=16)
def _outline(config: str) -> dict[str, Tensor]:
    """The tensors of the model that a description in JSON is of, without memory: many files have the same."""
    return outline(json.loads(config))


def _require_same(path: Path, found: dict[str, tuple[int, ...]], model: dict[str, Tensor], remedy: str = AGAIN) -> None:
    """Refuse shapes that are not those of a model: of each part that a file holds, every tensor must fit."""
    parts = {_part(name) for name in found}
    expected = {name: tuple(tensor.shape) for name, tensor in model.items() if _part(name) in parts}
    odd = sorted(found.keys() ^ expected.keys()) or [name for name in expected if found[name] != expected[name]]
    if odd or not found:
        what = f"{len(odd)} tensors differ, {_shown(odd[0])} for one" if odd else "it is empty"
        raise DffError(f"{path} holds another model ({what}): {remedy}")


def _part(name: str) -> str:
    """The part of the model that a tensor belongs to: flow network and scale field are two, for they are trained apart."""
    return ".".join(name.split(".")[: 2 if name.startswith("flow_source.") else 1])


def load_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint, in the precision in which they are stored; raises as `read_checkpoint` does."""
    return read_checkpoint(path).weights


def load_into(model: torch.nn.Module, path: str | os.PathLike | Checkpoint) -> None:
    """Load a checkpoint's weights into a model. Of each part that the file holds (``feature_net``, ``task_net``,
    ``flow_source.net``, ``flow_source.scale_head``) every tensor must fit; parts that it does not hold stay as they are.

    Raises:
        DffError: names or shapes differ, so the file holds another model; or as `read_checkpoint`.
    """
    read = read_checkpoint(path)
    _require_same(
        read.path, {name: tuple(tensor.shape) for name, tensor in read.weights.items()}, model.state_dict(),
        "load it with dfflib.models.checkpoints.load_model, which builds the model that it describes.",
    )  # fmt: skip
    model.load_state_dict(read.weights, strict=False)


def load_model(path: str | os.PathLike | Checkpoint) -> DeepFeatureFlow:
    """Rebuild the model that a checkpoint describes, with its weights, in evaluation mode and channels-last memory.

    A key-frame checkpoint leaves the flow network untrained: such a model copies its features.

    Raises:
        DffError: what the file does not hold would be larger than any part of the published networks; or as
            `read_checkpoint`.
    """
    read = read_checkpoint(path)
    parts = {_part(name) for name in read.weights}
    absent = sum(t.numel() for name, t in _outline(json.dumps(read.config)).items() if _part(name) not in parts)
    if absent > MAX_UNTRAINED:
        raise DffError(
            f"{read.path} describes a model with {absent} weights that it does not hold, more than {MAX_UNTRAINED}: "
            f"build that model, and load the file with dfflib.models.checkpoints.load_into."
        )
    model = build(**read.config)
    load_into(model, read)
    return model.eval().to(memory_format=torch.channels_last)


def load_segmenter(path: str | os.PathLike | Checkpoint) -> DeepFeatureFlow:
    """`load_model` for a file that holds a key-frame network too, so that the model can segment.

    Raises:
        DffError: the file holds a flow network alone, as ``flow_pretrain`` and ``flow_detached`` write; or as `load_model`.
    """
    read = read_checkpoint(path)
    if not any(name.startswith("feature_net.") for name in read.weights):
        raise DffError(
            f"{read.path} holds a flow network alone, which cannot segment: use a keyframe or joint checkpoint."
        )
    return load_model(read)
