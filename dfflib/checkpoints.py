"""Checkpoints: weights in safetensors, with what they are written in the file's header.

The header holds the model's description (so that it can be rebuilt), the training stage, seed, steps and how it was trained.
A file of another model, or a damaged one, is refused with one sentence.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dfflib import __version__
from dfflib.dff import DeepFeatureFlow, build
from dfflib.errors import DffError
from dfflib.paths import write_atomically


def save_checkpoint(
    path: str | os.PathLike, model: DeepFeatureFlow, config: dict, parts: tuple[str, ...] = ("",), **about
) -> Path:
    """Write weights and description, atomically.

    Args:
        path: ``.safetensors`` file.
        model: its ``state_dict`` is stored.
        config: keyword arguments of ``dfflib.dff.build``.
        parts: prefixes of the tensors to store (``"flow_source."``, say): a stage stores what it has trained.
        about: anything JSON can hold: stage, seed, steps, device, data, metrics.
    """
    header = {"dfflib": __version__, "model": json.dumps(config), "about": json.dumps(about)}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
               if name.startswith(tuple(parts))}  # fmt: skip
    return write_atomically(path, _with_sorted_header(save(weights, metadata=header)))


def store_half(source: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Copy a checkpoint with its weights in half precision, which takes half the space: the form in which files are shipped.

    Weights are rounded to eleven bits; loading turns them into float32 again, and no accuracy of the workbook changes in the
    digits that it prints.

    Raises:
        DffError: ``source`` is no checkpoint, or holds a number too large for half precision.
    """
    config, about = describe(source)
    weights = {name: t.half() if t.is_floating_point() else t for name, t in load_weights(source).items()}
    large = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if large:
        raise DffError(
            f"{source} cannot be stored in half precision: {large[0]} holds numbers above 65504, so copy it as it is."
        )
    header = {"dfflib": __version__, "model": json.dumps(config), "about": json.dumps({**about, "stored": "float16"})}
    return write_atomically(target, _with_sorted_header(save(weights, metadata=header)))


def tensor_digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256, in hexadecimal, of the names, types, shapes and bytes of tensors, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _with_sorted_header(file: bytes) -> bytes:
    """The same file with its metadata in order: safetensors shuffles it, and equal models should be equal files."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format keeps tensors aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + file[end:]


def describe(path: str | os.PathLike) -> tuple[dict, dict]:
    """Model description and training facts of a checkpoint: ``(config, about)``.

    Raises:
        DffError: no such file, damaged, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise DffError(f"there is no checkpoint {path}: train one with `dfflib train`, or name another file.")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        return json.loads(header["model"]), json.loads(header["about"])
    except (SafetensorError, OSError, ValueError) as error:
        raise DffError(
            f"{path} is not a readable checkpoint ({str(error).splitlines()[0]}): it is damaged or no safetensors file, "
            f"so fetch or train it again."
        ) from error
    except KeyError:
        raise DffError(
            f"{path} was not written by dfflib: it names no model. Use a checkpoint of `dfflib train`."
        ) from None


def load_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    describe(path)
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # not a view of the file on disk


def load_into(model: torch.nn.Module, path: str | os.PathLike) -> None:
    """Load a checkpoint's weights into a model. Of each part that the file holds (``feature_net``, ``task_net``,
    ``flow_source.net``, ``flow_source.scale_head``) every tensor must fit; parts that it does not hold stay as they are.

    Raises:
        DffError: names or shapes differ, so the file holds another model.
    """
    weights = load_weights(path)
    parts = {_part(name) for name in weights}
    expected = {name: t.shape for name, t in model.state_dict().items() if _part(name) in parts}
    odd = sorted(set(weights) ^ set(expected)) or [n for n in expected if weights[n].shape != expected[n]]
    if odd or not weights:
        raise DffError(
            f"{path} holds another model: {len(odd)} tensors differ from this one ({', '.join(odd[:1]) or 'it is empty'}), "
            f"so load it with dfflib.checkpoints.load_model, which builds the model that it describes."
        )
    model.load_state_dict(weights, strict=False)


def _part(name: str) -> str:
    """The part of the model that a tensor belongs to: flow network and scale field are two, for they are trained apart."""
    return ".".join(name.split(".")[: 2 if name.startswith("flow_source.") else 1])


def load_model(path: str | os.PathLike) -> DeepFeatureFlow:
    """Rebuild the model that a checkpoint describes, with its weights, in evaluation mode and channels-last memory.

    A key-frame checkpoint leaves the flow network untrained: such a model copies its features.
    """
    config, _ = describe(path)
    try:
        model = build(**config)
    except (DffError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DffError(
            f"{path} describes a model that this version of dfflib cannot build ({reason}): train it again."
        ) from error
    load_into(model, path)
    return model.eval().to(memory_format=torch.channels_last)


def load_segmenter(path: str | os.PathLike) -> DeepFeatureFlow:
    """`load_model` for a file that holds a key-frame network too, so that the model can segment.

    Raises:
        DffError: the file holds a flow network alone, as ``flow_pretrain`` and ``flow_detached`` write.
    """
    if not any(name.startswith("feature_net.") for name in load_weights(path)):
        raise DffError(f"{path} holds a flow network alone, which cannot segment: use a keyframe or joint checkpoint.")
    return load_model(path)
