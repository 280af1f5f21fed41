"""One run of the workbook: at which scale, from which seed, on which device, and the folder that its results go to."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pandas as pd

from dfflib import __version__, limits, machine, profiles
from dfflib.paths import run_folder
from dfflib.profiles import Profile
from dfflib.results import write_results


@dataclass(frozen=True)
class Run:
    """What training and evaluation are told about the run that they are part of.

    Attributes:
        profile: sizes and lengths.
        seed: for python, numpy and torch.
        folder: for figures, results and checkpoints; it need not exist.
        device: ``"cpu"`` or ``"cuda"``, for what does not choose its own.
    """

    profile: Profile
    seed: int
    folder: Path
    device: str = "cpu"

    @classmethod
    def of(cls, profile: str = "smoke", seed: int = 0, out_dir: str | os.PathLike = "") -> Self:
        """A run by the name of its profile, on a GPU where there is one. Nothing is written.

        Args:
            profile: one of ``dfflib.profiles.PROFILES``.
            seed: 0 or more.
            out_dir: the folder; empty means ``runs/<profile>``.

        Raises:
            DffError: no such profile or seed, or a folder of the workbook itself.
        """
        chosen = profiles.get(profile)
        limits.check("seed", seed)
        return cls(chosen, seed, run_folder(chosen.name, out_dir), machine.device())

    def with_seed(self, seed: int) -> Self:
        """The same run from another seed."""
        return replace(self, seed=seed)

    def write(self, table: pd.DataFrame, name: str, **columns: str | float) -> Path:
        """Write tidy rows (`dfflib.results.COLUMNS`) to ``results/<name>.csv`` in the run's folder.

        Args:
            table: has ``metric, value, unit``, and what else is known; columns that results do not have are dropped.
            name: of the file, without suffix.
            columns: the same value for every row, in place of the table's own: ``dataset``, ``interval`` and so on. Rows that
                do not say otherwise are of the experiment ``name``, and of this run's seed, device and version.
        """
        known: dict[str, str | float] = dict(
            experiment=name, seed=self.seed, device=machine.describe_device(), version=__version__
        )
        rows = table.assign(
            **{key: table[key].fillna(value) if key in table else value for key, value in known.items()}
        )
        return write_results(rows.assign(**columns), name, self.folder)
