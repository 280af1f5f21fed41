"""The notebooks: their anatomy, that all of them run in the smoke profile, and that what they measured shows the effect."""

import ast
import json
import re
import statistics

import pandas as pd
import pytest

from dfflib.paths import NOTEBOOKS
from dfflib.workbook.reproduce import reproduce

FILES = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
COURSE = [
    "00_quickstart", "01_video_and_labels", "02_warp", "03_train_keyframe", "04_train_flow_detached", "05_train_joint",
    "06_look_inside", "07_key_interval", "08_paper_tables",
    "09_real_video", "10_speed_on_your_machine",
]  # fmt: skip


def cells(path, kind):
    """Sources of the cells of one kind."""
    return [
        "".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind
    ]


def code_lines(source):
    return [line for line in source.splitlines() if line.strip()]


def test_the_course_is_complete():
    assert [path.stem for path in FILES][: len(COURSE)] == COURSE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestAnatomy:
    def test_parameters_are_typed_literals_with_a_comment(self, path):
        book = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [n for n, c in enumerate(book) if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1 and tagged[0] < 10
        source = "".join(book[tagged[0]]["source"])
        names = {}
        for statement, line in zip(ast.parse(source).body, code_lines(source), strict=True):
            assert isinstance(statement, ast.AnnAssign), f"not a typed assignment: {line}"
            assert "#" in line, f"no comment: {line}"
            names[statement.target.id] = ast.literal_eval(statement.value)
        assert names["profile"] == "smoke" and names["seed"] == 0 and names["out_dir"] == ""

    def test_it_opens_and_closes_as_a_lesson(self, path):
        prose = cells(path, "markdown")
        assert re.match(rf"# {path.name[:2]}\b", prose[0])
        text = "\n".join(prose)
        for word in ("You will", "Recap", "Exercise", "<details>", "References"):
            assert word.lower() in text.lower(), f"{path.name} lacks {word!r}"

    def test_prose_outweighs_code_and_cells_are_short(self, path):
        code, prose = cells(path, "code"), cells(path, "markdown")
        lines = [len(code_lines(source)) for source in code]
        assert max(lines) <= 20 and statistics.median(lines) <= 8
        assert len(" ".join(prose).split()) >= 5 * sum(lines)

    def test_it_defines_next_to_nothing(self, path):
        tree = [node for source in cells(path, "code") for node in ast.parse(source).body]
        assert sum(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree) <= 2

    def test_colours_are_those_of_the_library(self, path):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", "\n".join(cells(path, "code")))

    def test_it_is_committed_clean(self, path):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All notebooks, executed once in the smoke profile from the shipped checkpoints."""
    folder = tmp_path_factory.mktemp("smoke")
    return folder, reproduce("smoke", out_dir=folder, progress=False)


@pytest.mark.slow
class TestSmoke:
    def test_every_notebook_runs(self, run):
        folder, summary = run
        assert not summary.failed, "\n".join(str(outcome.error) for outcome in summary.failed)
        for path in FILES:
            assert (folder / "notebooks" / path.name).is_file()
            assert list((folder / "figures").glob(f"{path.name[:2]}_*")), f"{path.name} drew nothing"
        assert (folder / "index.html").is_file()

    def test_dff_is_closer_to_the_per_frame_network_than_copy(self, run):
        """The claim of the issue: held-out frames, l = 5, every offset from 2 on, mean over three seeds."""
        rows = pd.read_csv(run[0] / "results" / "07_by_offset.csv")
        rows = rows[(rows["metric"] == "agreement") & rows["offset"].between(2, 4)]
        assert rows["seed"].nunique() == 3
        mean = rows.pivot_table(index="offset", columns="method", values="value")
        assert (mean["DFF"] > mean["copy"]).all(), mean

    def test_results_are_tidy(self, run):
        from dfflib.results import COLUMNS

        files = list((run[0] / "results").glob("*.csv"))
        assert files
        for path in files:
            rows = pd.read_csv(path)
            assert list(rows.columns) == COLUMNS, path.name
            assert rows[["experiment", "metric", "value", "unit", "device", "version"]].notna().all().all(), path.name
