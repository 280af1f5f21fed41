"""What a checkpoint's header says: one JSON text with the model's description, how it was trained, and checksums.

Nothing in it is believed: names, types and ranges are checked. Headers of dfflib 0.1, which have an entry for each of these and
a model's arguments side by side, are translated while they are read.
"""

import hashlib
import json
from typing import Any, NamedTuple

from dfflib import __version__
from dfflib.errors import DffError
from dfflib.models.arguments import Limits, check_value
from dfflib.models.build import Config, complete

SYSTEM = "dff"
ENTRY = "checkpoint"  # of a file's metadata that is ours
SUMS = {"tensor_sha256", "header_sha256"}
OLDER = {"dfflib", "model", "about", *SUMS}  # entries of older metadata; the oldest lack the sums
FACTS = OLDER | {"system"}
ABOUT: dict[str, tuple[type, Limits | None]] = {
    **dict.fromkeys(("stage", "settings", "device", "torch", "stored"), (str, None)),
    "seed": (int, None),
    "steps": (int, (0, 10**12)),
    "batch": (int, (1, 10**6)),
    "short_side": (int, (1, 2**16)),
    "metric": (float, None),
    "seconds": (float, (0, 10**12)),
}
"""Kind and limits of the facts on training that mean the same in every file. None, and others beside them, are allowed."""

FLAT = {
    "num_classes": ("task", "num_classes"),
    "feature_net": ("features", "name"),
    **{name: ("features", name) for name in ("channels", "task_blocks", "stride_in_1x1", "frozen")},
    "flow_net": ("flow", "name"),
    "flow_width": ("flow", "width"),
    "flow_input_stride": ("flow", "input_stride"),
    "scale": ("flow", "scale"),
}
"""Arguments of a model as older headers have them, side by side, and the places where they are now."""


class Header(NamedTuple):
    """A header that has been checked: the model's complete description, its training, and the checksum of its tensors."""

    config: Config
    about: dict[str, Any]
    tensor_sha256: str | None


def write(config: object, about: dict[str, Any], tensor_sha256: str) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        DffError: a value that a header cannot have.
    """
    facts = dict(dfflib=__version__, system=SYSTEM, model=complete(config), about=about, tensor_sha256=tensor_sha256)
    _check_about(about)
    return {ENTRY: json.dumps({**facts, "header_sha256": _digest(facts)}, sort_keys=True)}


def read(metadata: dict[str, str]) -> Header | None:
    """What metadata say; None if they are not ours.

    Raises:
        DffError, ValueError, RecursionError: they say what no header can.
    """
    if ENTRY not in metadata and not {"model", "about"} <= metadata.keys():
        return None
    is_older = ENTRY not in metadata
    facts = parse(metadata[ENTRY]) if metadata.keys() == {ENTRY} else dict(metadata)
    if not isinstance(facts, dict):
        raise DffError(f"it is a {type(facts).__name__} and no object")
    if odd := sorted(facts.keys() - (OLDER if is_older else FACTS)):
        raise DffError(f"there is no entry {ascii(odd[0])[:80]}")
    if not is_older and (facts.keys() != FACTS or facts["system"] != SYSTEM):
        raise DffError(f"it describes no model of system {SYSTEM}")
    if facts.keys() & SUMS and facts.get("header_sha256") != _digest(facts):
        raise DffError("it is not the one that was written")
    if is_older:
        facts |= dict(model=_from_flat(parse(facts["model"])), about=parse(facts["about"]))
    _check_about(facts["about"])
    return Header(complete(facts["model"]), facts["about"], facts.get("tensor_sha256"))


def parse(text: str) -> Any:
    """What JSON says. Of two values for one name none is taken."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object, if its names differ."""
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice in its header")
        return found

    return json.loads(text, object_pairs_hook=unique)


def _digest(facts: dict[str, Any]) -> str:
    """Of everything else in a header: a bit that turns one valid setting into another shows nowhere else."""
    text = json.dumps({name: value for name, value in facts.items() if name != "header_sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_about(about: object) -> None:
    """Types and ranges of what means the same in every account of training."""
    if not isinstance(about, dict):
        raise DffError(f"about is a {type(about).__name__} and no object")
    for name, value in about.items():
        if name in ABOUT and value is not None:
            check_value(name, value, *ABOUT[name])


def _from_flat(arguments: object) -> Config:
    """The description of a model from its arguments as older headers have them."""
    if not isinstance(arguments, dict):
        raise DffError(f"model is a {type(arguments).__name__} and no object")
    config: Config = {}
    for name, value in arguments.items():
        if name not in FLAT:
            raise DffError(f"a model has no argument {ascii(name)[:80]}")
        part, argument = FLAT[name]
        config.setdefault(part, {})[argument] = value
    return config


def flat(config: Config) -> dict[str, Any]:
    """A description as it was given, in the form of older headers: digests of training settings are formed of that."""
    names = {place: name for name, place in FLAT.items()}
    places = [(part, name, value) for part, arguments in config.items() for name, value in arguments.items()]
    return {names.get((part, name), f"{part} {name}"): value for part, name, value in places}
