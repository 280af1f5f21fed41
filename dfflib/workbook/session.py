"""What a notebook's first cell sets up."""

from dataclasses import dataclass
from pathlib import Path

from dfflib.limits import check
from dfflib.machine import versions
from dfflib.paths import run_dir
from dfflib.profiles import Profile, get


@dataclass(frozen=True)
class Run:
    """What a notebook's set-up cell holds on to: profile, seed, device and the folder that results go to."""

    profile: Profile
    seed: int
    device: str
    folder: Path


def begin(profile: str, seed: int = 0, out_dir: str = "") -> Run:
    """Set a notebook up: check the profile, seed everything, choose the device, and say so.

    Args:
        profile: one of ``PROFILES``.
        seed: for python, numpy and torch.
        out_dir: folder for figures, results and checkpoints; empty means ``runs/<profile>``.

    Raises:
        DffError: no such profile or seed, or a folder that cannot be written to.
    """
    import torch
    from lightning.fabric import seed_everything

    from dfflib.viz import use_style

    chosen, seed = get(profile), check("seed", seed)
    folder = run_dir(chosen.name, out_dir)
    seed_everything(seed, verbose=False)
    use_style()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{versions()} on {where}\nprofile {chosen.name}: {chosen.about}")
    return Run(chosen, seed, device, folder)
