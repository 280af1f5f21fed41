"""The run that training and evaluation are told about."""

import pandas as pd
import pytest

from dfflib import machine, paths
from dfflib.errors import DffError
from dfflib.results import COLUMNS
from dfflib.run import Run


def test_a_run_by_names(tmp_path):
    run = Run.of("laptop", 3, tmp_path / "new")
    assert (run.profile.name, run.seed, run.folder) == ("laptop", 3, (tmp_path / "new").resolve())
    assert run.device == machine.device() and not run.folder.exists(), "nothing is written"
    assert Run.of() == Run.of("smoke", 0, paths.RUNS / "smoke")
    assert run.with_seed(5) == Run.of("laptop", 5, tmp_path / "new")


@pytest.mark.parametrize("wrong, said", [
    (dict(profile="huge"), "no profile 'huge'"), (dict(seed=-1), "seed is -1"), (dict(out_dir=paths.ROOT), "run folder"),
])  # fmt: skip
def test_what_is_no_run_is_refused(wrong, said):
    with pytest.raises(DffError, match=said):
        Run.of(**wrong)


def test_results_are_filled_in_and_what_is_said_replaces_what_the_table_says(tmp_path):
    run = Run.of("smoke", 7, tmp_path)
    table = pd.DataFrame([dict(metric="miou", value=1.5, unit="%", dataset="a", frames=3)])
    path = run.write(table, "01_mine", interval=5)
    assert path == run.folder / "results" / "01_mine.csv"
    row = pd.read_csv(path).iloc[0]
    assert list(row.index) == COLUMNS and row["version"] and row["device"]
    assert (row["experiment"], row["dataset"], row["interval"], row["seed"]) == ("01_mine", "a", 5, 7)
    two = pd.read_csv(run.write(pd.concat([table, table.assign(seed=1, experiment="x")]), "01_mine"))
    assert two["seed"].tolist() == [7, 1] and two["experiment"].tolist() == ["01_mine", "x"]
    again = pd.read_csv(run.write(table.assign(seed=1, experiment="x"), "01_mine", dataset="b", experiment="y")).iloc[0]
    assert (again["experiment"], again["dataset"], again["seed"]) == ("y", "b", 1)
