"""The page that says what ships in ``data/checkpoints``, and how it was made."""

from pathlib import Path

from dfflib.errors import DffError
from dfflib.evaluation.scenes import SceneCounts
from dfflib.evaluation.variants import weights_of
from dfflib.models import checkpoints
from dfflib.paths import CHECKPOINTS
from dfflib.results import in_markdown


def checkpoint_page(folder: Path = CHECKPOINTS, profile: str = "laptop") -> str:
    """What is in ``data/checkpoints``, as a page: stage, seed, steps, device, time, validation, size and SHA-256.

    Args:
        folder: with the checkpoints.
        profile: that trained them.
    """
    command = f"`dfflib train STAGE --profile {profile} --seed SEED --recipe RECIPE`"
    lines = [
        "# Shipped checkpoints",
        "",
        "Written by `dfflib publish` from the files' own headers. Files named `study_` and `shapes_` were trained on the",
        "Shapes world (study and medium level, 128x128, seeds of the train part), the others on the train parts of the three",
        "sample clips with intensity-threshold labels (their `flow_pretrain`: on frames moved by a known flow), `camvid_` on",
        "nine tenths of CamVid's training split. `flow_pretrain` is shared by all seeds, and so is `study_keyframe`. The",
        "metric is mIoU on the validation part, for `flow_pretrain` the end-point error in pixels. A file holds the parts that",
        f"its stage trains, in half precision. Each is made again, on a CPU, by {command},",
        "where the name is `RECIPE_STAGE_sSEED`; without a recipe in its name it is `threshold`, the default; all of them are",
        f"made by `dfflib train-all --profile {profile}`. Beside each lies its log; `study_counts_sSEED.npz` holds what each",
        "variant of the study got right, scene by scene (`dfflib.evaluation.variants`). The same command gives the same",
        "weights, bit for bit, with one thread (`OMP_NUM_THREADS=1`) on the same kind of processor with the same versions;",
        "SHA-256 is of the tensors, and `dfflib train` prints it.",
        "",
        "| file | steps | metric | seconds | device | MB | SHA-256 |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*.safetensors")):
        about = checkpoints.describe(path)[1]
        try:
            facts = (f"{about['steps']} | {about['metric']:.3f} | {about['seconds']:.0f}", in_markdown(about["device"]))
        except (KeyError, ValueError, TypeError) as error:
            raise DffError(
                f"the header of {path} does not say how it was trained ({error}): restore the file."
            ) from None
        size = f"{path.stat().st_size / 1e6:.1f}"
        lines.append(
            f"| `{in_markdown(path.name)}` | {' | '.join(facts)} | {size} | `{checkpoints.as_shipped(path)[0]}` |"
        )
    return "\n".join([*lines, *_counted(folder)]) + "\n"


def _counted(folder: Path) -> list[str]:
    """Of checkpoints that were counted and do not ship: their names and digests."""
    digests: dict[str, str] = {}
    for path in sorted(folder.glob("study_counts_s*.npz")):
        digests |= weights_of(SceneCounts.load(path))
    missing = {name: digest for name, digest in sorted(digests.items()) if not (folder / name).is_file()}
    if not missing:
        return []
    head = "These were counted, and their weights do not ship; beside the counts lie their logs."
    return [
        "",
        head,
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *(f"| `{name}` | `{digest}` |" for name, digest in missing.items()),
    ]
