"""Running notebooks: once for the same code and parameters, safely interrupted, with a page at the end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from dfflib import paths
from dfflib.errors import DffError
from dfflib.locks import lock_run
from dfflib.run import Run
from dfflib.workbook import pages
from dfflib.workbook.notebooks import convert, find_notebooks, select
from dfflib.workbook.reproduce import reproduce

PARAMETERS = """\
profile: str = "smoke"  # smoke, laptop, gpu or paper
seed: int = 0  # python, numpy and torch
out_dir: str = ""  # where figures and results go
rate: float = 0.5  # a number
"""
WRITES = """\
import sys
from pathlib import Path
table = "method,value\\nDFF,0.123456\\n"
for kind, name, text in (("figures", "00_picture.png", "png"), ("results", "00_table.csv", table)):
    (Path(out_dir) / kind).mkdir(exist_ok=True)
    (Path(out_dir) / kind / name).write_text(text)
print(sys.executable, seed, rate)
"""
SLEEPS = """\
import os, time
from pathlib import Path
(Path(out_dir) / "kernel.pid").write_text(str(os.getpid()))
time.sleep(0 if (Path(out_dir) / "go on").exists() else 120)
"""


def write_notebook(path: Path, title: str, *cells: str) -> None:
    new = nbformat.v4
    tagged = new.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    head = new.new_markdown_cell(f"# {title}\n\nWhat it **shows** in `one` line.\n\nAnd more.")
    # A kernel of this name is installed nowhere: notebooks run with the interpreter of the tests all the same.
    spec = {"name": "elsewhere", "display_name": "elsewhere", "language": "python"}
    nbformat.write(
        new.new_notebook(cells=[head, tagged, *map(new.new_code_cell, cells)], metadata={"kernelspec": spec}), path
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of three notebooks, of which one fails: (notebooks folder, run folder, summary)."""
    notebooks, out = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("run")
    write_notebook(notebooks / "00_first.ipynb", "00. First & foremost", "raise NotImplementedError('yours')", WRITES)
    first = nbformat.read(notebooks / "00_first.ipynb", as_version=4)
    first.cells[2].metadata["tags"] = ["raises-exception"]  # an exercise
    nbformat.write(first, notebooks / "00_first.ipynb")
    write_notebook(notebooks / "01_bug.ipynb", "01. Bug", "1 + 1", "values = {}\nvalues['missing']")
    write_notebook(notebooks / "02_input.ipynb", "02. Input",
                   "from dfflib.errors import DffError\nraise DffError('clip.mp4 is missing: fetch it.')")  # fmt: skip
    return notebooks, out, reproduce("smoke", parameters={"seed": "3"}, out_dir=out, notebooks=notebooks)


def by_name(summary) -> dict:
    return {outcome.notebook.stem: outcome for outcome in summary.outcomes}


def test_a_notebook_runs_with_this_interpreter_and_its_parameters(run):
    _, out, summary = run
    assert by_name(summary)["00_first"].status == "run"
    executed = nbformat.read(out / "notebooks" / "00_first.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.split() == [sys.executable, "3", "0.5"]
    assert len(executed.cells) == 5  # heading, parameters, those injected, the exercise, and the last; no error marks
    assert executed.cells[3].outputs[0].evalue == "yours"
    state = json.loads((out / "state" / "00_first.json").read_text(encoding="utf-8"))
    assert state["parameters"] == {"profile": "smoke", "out_dir": str(out), "seed": 3}
    assert state["outputs"] == ["figures/00_picture.png", "results/00_table.csv"]
    assert {"key", "seconds", "finished", "versions"} <= state.keys()


def test_a_failing_notebook_is_named_kept_and_does_not_stop_the_others(run):
    _, out, summary = run
    bug, mistake = (by_name(summary)[name] for name in ("01_bug", "02_input"))
    assert [outcome.notebook.stem for outcome in summary.failed] == ["01_bug", "02_input"]
    assert bug.error.startswith("01_bug failed in cell [4]: KeyError: 'missing'; what it had done is in")
    assert mistake.error.startswith("02_input failed in cell [3]: clip.mp4 is missing: fetch it; what it had")
    assert (out / "notebooks" / "01_bug.failed.ipynb").is_file()
    left = {path.name for path in (out / "notebooks").iterdir()}
    assert left == {"00_first.ipynb", "01_bug.failed.ipynb", "02_input.failed.ipynb"}
    assert not (out / "state" / "01_bug.json").exists()


def test_the_index_shows_notebooks_figures_and_tables_and_needs_no_network(run):
    _, out, summary = run
    page = summary.index.read_text(encoding="utf-8")
    assert summary.index == out / "index.html"
    assert '<a href="html/00_first.html">00. First &amp; foremost</a>' in page
    assert "What it shows in one line." in page and "And more" not in page
    assert 'alt="00_picture.png"' in page and "0.1235" in page
    assert "clip.mp4 is missing" in page
    assert "http" not in page
    assert page.count("<script") == 0


def test_notebook_pages_wait_for_nothing_from_the_network(run):
    page = (run[1] / "html" / "00_first.html").read_text(encoding="utf-8")
    assert '<script src="http' not in page and "require.min.js" not in page and "mathjax" not in page.lower()


def test_what_is_done_is_skipped_until_something_changes(run, tmp_path, monkeypatch):
    notebooks, out, _ = run
    executed = shutil.copy(out / "notebooks" / "00_first.ipynb", tmp_path)
    ran = []

    def stand_in(task, target, line):
        ran.append(task.name)
        shutil.copy(executed, target)
        (out / "figures" / "00_picture.png").touch()

    monkeypatch.setattr("dfflib.workbook.reproduce._execute", stand_in)

    def again(seed=3, **options):
        ran.clear()
        summary = reproduce("smoke", ["00"], {"seed": seed}, out_dir=out, notebooks=notebooks, **options)
        assert by_name(summary)["00_first"].status == ("run" if ran else "skipped")
        assert by_name(summary)["01_bug"].status == "not run"  # it was not selected
        return ran == ["00_first"]

    assert not again()
    assert again(force=True) and not again()
    assert again(seed=4) and not again(seed=4) and again()
    for name in ("notebooks/00_first.ipynb", "html/00_first.html", "figures/00_picture.png", "state/00_first.json"):
        (out / name).unlink()
        assert again() and not again(), name
    (out / "state" / "00_first.json").write_text("{ damaged", encoding="utf-8")
    assert again() and not again()
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "joint_s0.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(paths, "CHECKPOINTS", checkpoints)
    assert again() and not again()
    package = tmp_path / "dfflib"
    (package / "data").mkdir(parents=True)
    monkeypatch.setattr("dfflib.workbook.reproduce.__file__", str(package / "workbook" / "reproduce.py"))
    assert again() and not again()
    for source in ("new.py", "page.j2"):
        (package / "data" / source).write_text("# source", encoding="utf-8")
        assert again() and not again()
    changed = nbformat.read(notebooks / "00_first.ipynb", as_version=4)
    changed.cells[-1].source += "# changed"
    nbformat.write(changed, notebooks / "00_first.ipynb")
    assert again() and not again()


@pytest.mark.parametrize("options, words", [
    (dict(profile="enormous"), "there is no profile 'enormous'"),
    (dict(only=["17"]), "there is no notebook '17': choose from 00_first, 01_bug, 02_input"),
    (dict(parameters={"sed": "1"}), "has a parameter 'sed' (did you mean 'seed'?): known are rate, seed"),
    (dict(parameters={"seed": "many"}), "parameter 'seed' is 'many', but its type is int: give, say, seed=0"),
    (dict(parameters={"profile": "gpu"}), "use --profile"),
    (dict(notebooks="/nowhere"), "there are no notebooks"),
])  # fmt: skip
def test_bad_requests_are_refused_before_anything_runs(run, tmp_path, options, words):
    with pytest.raises(DffError) as refused:
        reproduce(**{"notebooks": run[0], "out_dir": tmp_path / "new", **options})
    assert words in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_run_folder(run, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DffError, match=r"cannot be the run folder .*--out-dir"):
        reproduce(notebooks=run[0], out_dir=tmp_path / "file")


def test_an_unreadable_notebook_is_named(tmp_path):
    (tmp_path / "00_cut.ipynb").write_text('{"cells": [', encoding="utf-8")
    with pytest.raises(DffError, match=r"00_cut.ipynb is not a readable notebook"):
        reproduce(notebooks=tmp_path, out_dir=tmp_path / "run")


def test_what_is_no_notebook_fails_alone(tmp_path):
    write_notebook(tmp_path / "00_good.ipynb", "00. Good", "1 + 1")
    (tmp_path / "01_cut.ipynb").write_text('{"cells": [', encoding="utf-8")
    (tmp_path / "02_folder.ipynb").mkdir()
    fields = dict(cells=[dict(cell_type="code", metadata={})], metadata={}, nbformat=4, nbformat_minor=5)
    (tmp_path / "03_bare.ipynb").write_text(json.dumps(fields), encoding="utf-8")
    summary = reproduce(notebooks=tmp_path, out_dir=tmp_path / "run", progress=False)
    assert [outcome.status for outcome in summary.outcomes] == ["run", "failed", "failed", "failed"]
    assert all("is not a readable notebook" in outcome.error for outcome in summary.failed)
    assert "01_cut" in summary.index.read_text(encoding="utf-8")
    again = reproduce(notebooks=tmp_path, out_dir=tmp_path / "run", only=["00"], progress=False)
    assert [outcome.status for outcome in again.outcomes] == ["skipped", "not run", "not run", "not run"]


def test_signs_outside_the_code_page_fail_neither_notebook_nor_command(tmp_path):
    text = "print('█▏ ± 日本 ‑ “x”')"
    write_notebook(tmp_path / "00_signs.ipynb", "00. Signs ±", text)
    code = (
        "import click; from dfflib import cli; import dfflib.workbook.reproduce as r; f = r.reproduce; "
        f"r.reproduce = lambda *a, **k: (click.echo('\\u2588 \\udcff'), f(*a, notebooks={str(tmp_path)!r}, **k))[1]; "
        "cli.main(prog_name='dfflib')"
    )
    for encoding in ("cp1252", "ascii"):
        process = subprocess.run(
            [sys.executable, "-c", code, "reproduce", "--out-dir", str(tmp_path / encoding)], capture_output=True, check=False,
            env={**os.environ, "PYTHONPATH": str(paths.ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                 "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        executed = nbformat.read(tmp_path / encoding / "notebooks" / "00_signs.ipynb", as_version=4)
        assert executed.cells[-1].outputs[0].text == "█▏ ± 日本 ‑ “x”\n"
        assert "日本" in (tmp_path / encoding / "html" / "00_signs.html").read_text(encoding="utf-8")


def test_an_error_of_a_worker_is_its_last_line():
    worker = "Caught DffError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File a\n"
    assert (
        str(DffError(f"{worker}dfflib.errors.DffError: clip.mp4 is missing: fetch it.\n"))
        == "clip.mp4 is missing: fetch it."
    )
    assert str(DffError("plain.")) == "plain."


def test_a_folder_in_use_is_refused_and_a_stale_lock_is_not(run, tmp_path):
    (tmp_path / ".lock").write_text("`dfflib reproduce`, process 1 on a machine that is off", encoding="utf-8")
    holder = f"`dfflib reproduce`, process {os.getpid()} on "
    with (
        lock_run("smoke", tmp_path, "dfflib reproduce"),
        pytest.raises(DffError, match=f"in use by {holder}.*: wait for it"),
    ):
        reproduce(notebooks=run[0], out_dir=tmp_path)


def test_select_keeps_the_order_of_the_workbook(tmp_path):
    for name in ("02_warp", "00_start", "11_detection", "no_number"):
        write_notebook(tmp_path / f"{name}.ipynb", name)
    every = find_notebooks(tmp_path)
    assert [path.stem for path in every] == ["00_start", "02_warp", "11_detection"]
    assert [path.stem for path in select(every, ["11_detection.ipynb,2"])] == ["02_warp", "11_detection"]
    assert select(every, []) == every


@pytest.mark.parametrize("annotation, default, given, value", [
    ("int", "0", "5", 5), ("float", "0.1", "1e-3", 1e-3), ("float", "0.1", 2, 2.0), ("str", "''", "05", "05"),
    ("bool", "True", "false", False), ("bool", "True", "True", True), ("list", "[]", "[1, 2]", [1, 2]),
    ("tuple[int, ...]", "(1,)", "(3, 4)", [3, 4]), ("None", "'x'", "12", "12"), ("None", "3", "4", 4),
    ("int | None", "None", "None", None), ("int | None", "None", "7", 7), ("dict", "{}", '{"a": 1}', {"a": 1}),
])  # fmt: skip
def test_parameter_values_take_the_declared_type(annotation, default, given, value):
    got = convert("name", given, {"inferred_type_name": annotation, "default": default})
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("annotation, given", [
    ("int", "1.5"), ("int", "true"), ("int", True), ("bool", "1"), ("bool", "maybe"), ("float", "fast"), ("str", 5),
    ("list", "3"),
])  # fmt: skip
def test_values_of_another_type_are_refused(annotation, given):
    with pytest.raises(DffError, match=f"its type is {annotation}"):
        convert("name", given, {"inferred_type_name": annotation, "default": "0"})


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended, and whose parent has not asked yet, does not."""
    asked = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    ).stdout.strip()
    return bool(asked) and not asked.startswith("Z")


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("kernel_too", [False, True], ids=["ctrl-c", "ctrl-c that reaches the kernel too"])
def test_ctrl_c_stops_the_kernel_and_the_same_command_continues(tmp_path, kernel_too):
    notebooks, out = tmp_path / "notebooks", tmp_path / "run"
    notebooks.mkdir()
    write_notebook(notebooks / "00_quick.ipynb", "00. Quick", "1 + 1")
    write_notebook(notebooks / "01_slow.ipynb", "01. Slow", SLEEPS)
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # CI may start us with it ignored
        "from dfflib import cli; import dfflib.workbook.reproduce as r; "
        "f = r.reproduce; "
        f"r.reproduce = lambda *a, **k: f(*a, notebooks={str(notebooks)!r}, **k); cli.main(prog_name='dfflib')"
    )
    command = [sys.executable, "-c", code, "reproduce", "--out-dir", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}

    def start():
        return subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    process, pid_file = start(), out / "kernel.pid"
    wait_until(lambda: pid_file.is_file() and pid_file.read_text(encoding="utf-8"))
    kernel = int(pid_file.read_text(encoding="utf-8"))
    assert is_alive(kernel)
    if kernel_too:
        os.kill(kernel, signal.SIGINT)
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped in 01_slow: 1 of 2 notebooks are finished and kept; the same command continues there." in said
    assert "Traceback" not in said
    assert not is_alive(kernel)
    assert sorted(path.name for path in (out / "notebooks").iterdir()) == ["00_quick.ipynb"]
    if kernel_too:
        return
    finished = (out / "notebooks" / "00_quick.ipynb").read_bytes()
    (out / "go on").touch()
    process = start()
    told, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert told.startswith("1 run, 1 up to date, 0 failed")
    assert (out / "notebooks" / "00_quick.ipynb").read_bytes() == finished


def test_a_killed_run_leaves_no_kernel_and_no_lock(tmp_path):
    write_notebook(tmp_path / "00_slow.ipynb", "00. Slow", SLEEPS)
    run = str(tmp_path / "run")
    code = f"from dfflib.workbook.reproduce import reproduce; reproduce(notebooks={str(tmp_path)!r}, out_dir={run!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(paths.ROOT)}, stderr=subprocess.DEVNULL
    )
    pid_file = tmp_path / "run" / "kernel.pid"
    wait_until(lambda: pid_file.is_file() and pid_file.read_text(encoding="utf-8"))
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(int(pid_file.read_text(encoding="utf-8"))), 10)
    (tmp_path / "run" / "go on").touch()
    assert not reproduce(notebooks=tmp_path, out_dir=tmp_path / "run", progress=False).failed


def test_tables_name_constant_columns_once_and_fold_long_tables(tmp_path):
    (tmp_path / "results").mkdir()
    rows = "\n".join(f"warp,<b>DFF</b>,{n},{n / 3},," for n in range(20))
    (tmp_path / "results" / "02_long.csv").write_text(
        f"experiment,method,offset,value,seconds,device\n{rows}\n", encoding="utf-8"
    )
    (tmp_path / "results" / "03_empty.csv").write_text("", encoding="utf-8")
    page = pages.write_index(tmp_path, "smoke", []).read_text(encoding="utf-8")
    long, empty = page.partition('id="results"')[2].split("</details>")
    assert "<details>" in long and "20 rows; experiment warp, method &lt;b&gt;DFF" in long
    assert "6.333" in long and "seconds" not in long and "<b>" not in page
    assert "03_empty.csv</a> cannot be read" in empty


def test_headline_of_a_notebook(tmp_path):
    new = nbformat.v4
    text = "# 02. The *warp*\nMoves $x$ by a\n[flow](https://example.org).\n\n- you will"
    nbformat.write(new.new_notebook(cells=[new.new_markdown_cell(text)]), tmp_path / "02_warp.ipynb")
    assert pages.headline(tmp_path / "02_warp.ipynb") == ("02. The warp", "Moves x by a flow.")
    nbformat.write(new.new_notebook(), tmp_path / "03_bare.ipynb")
    assert pages.headline(tmp_path / "03_bare.ipynb") == ("03_bare", "")


@pytest.fixture
def trained_first(monkeypatch):
    """Calls of `dfflib.training.jobs.train_all`, which does nothing."""
    from dfflib.training import jobs

    calls = []
    monkeypatch.setattr(jobs, "train_all", lambda run, **arguments: calls.append((run, arguments)))
    return calls


def test_a_profile_that_starts_from_nothing_trains_side_by_side_first(tmp_path, trained_first):
    write_notebook(tmp_path / "00_first.ipynb", "00. First", "1 + 1")
    for _ in range(2):
        reproduce("laptop", out_dir=tmp_path / "run", notebooks=tmp_path, jobs=3, progress=False)
    assert len(trained_first) == 1, "the second run has nothing to do"
    assert trained_first[0][0] == Run.of("laptop", out_dir=tmp_path / "run") and trained_first[0][1]["jobs"] == 3


@pytest.mark.parametrize(
    "profile, arguments",
    [("smoke", {}), ("laptop", {"only": ["00"]}), ("laptop", {"jobs": 1}), ("laptop", {"parameters": {"seed": "1"}})],
)
def test_what_a_part_of_the_workbook_needs_is_trained_by_its_notebooks(tmp_path, trained_first, profile, arguments):
    write_notebook(tmp_path / "00_first.ipynb", "00. First", "1 + 1")
    reproduce(profile, out_dir=tmp_path / "run", notebooks=tmp_path, progress=False, **arguments)
    assert not trained_first


@pytest.mark.parametrize(
    "text, shown",
    [
        ("with $r < 1$ it pays", ["<math", "<mi>r</mi>", "&#x0003C;", "</math> it pays"]),
        ("$$s = \\frac{l}{1 + (l-1)\\,r}$$", ['display="block"', "<mfrac>"]),
        ("$\\mathcal W$", ["&#x1D4B2;"]),
        ("`$HOME` and $x$ and `$$`\n\n    $y$", ["<code>$HOME</code>", "<mi>x</mi>", "<code>$$</code>", "<code>$y$"]),
        ("a price of 5$ alone", ["a price of 5$ alone"]),
        ("$\\frac{1}{$", ["$\\frac{1}{$"]),
    ],
)
def test_formulas_are_drawn_by_the_browser_itself(text, shown):
    page = pages.markdown_to_html(text)
    assert all(part in page for part in shown), page


def test_every_formula_of_the_workbook_can_be_drawn():
    from latex2mathml.converter import convert

    for path in find_notebooks(paths.NOTEBOOKS):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                prose = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
                for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", prose, flags=re.DOTALL):
                    drawn = convert(block or inline)
                    assert "\\" not in drawn, f"{path.name}: {block or inline}"
