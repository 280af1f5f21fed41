"""Run the notebooks in order, headless, into ``runs/<profile>``; skip what is done with the same code and parameters.

A notebook is done when ``state/NN_x.json`` holds its key and everything it wrote is still there. The key is a SHA-256
of the notebook's cells, every ``dfflib/**/*.py``, the shipped checkpoints, the parameters, and the versions of python
and torch. Notebooks run on their own (each trains or loads what it needs), so the key does not look at those before it.

Nothing here imports torch: a second run, which skips everything, takes a few seconds.
"""

import hashlib
import json
import math
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from dfflib import machine, paths, profiles
from dfflib.errors import DffError
from dfflib.locks import lock_run
from dfflib.workbook import pages
from dfflib.workbook.notebooks import assign_parameters, find_notebooks, read_notebook, select
from dfflib.workbook.pages import Outcome


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        folder: the run folder.
        index: its ``index.html``.
        outcomes: one per notebook of the workbook, selected or not, in order.
        seconds: wall time of the run.
    """

    folder: Path
    index: Path
    outcomes: list[Outcome]
    seconds: float

    @property
    def failed(self) -> list[Outcome]:
        """The notebooks that failed in this run."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    def __str__(self) -> str:
        run, skipped, failed = (sum(o.status == s for o in self.outcomes) for s in ("run", "skipped", "failed"))
        return f"{run} run, {skipped} up to date, {failed} failed, in {self.seconds:.0f} s: open {self.index}"


@dataclass(frozen=True)
class _Task:
    """One selected notebook, with what decides whether it runs."""

    notebook: Path
    parameters: dict
    key: str
    cells: int

    @property
    def name(self) -> str:
        """Of the notebook, without its suffix."""
        return self.notebook.stem


def reproduce(
    profile: str = "smoke", only: Iterable[str] = (), parameters: dict | None = None, force: bool = False,
    out_dir: str | os.PathLike = "", notebooks: str | os.PathLike = paths.NOTEBOOKS, progress: bool = True, jobs: int = 0,
) -> Summary:  # fmt: skip
    """Run the notebooks and write one HTML index of notebooks, figures and tables.

    A notebook that fails does not stop the others: ``Summary.failed`` names it, and what it had done by then is kept as
    ``notebooks/NN_x.failed.ipynb``.

    Args:
        profile: one of ``dfflib.profiles.PROFILES``.
        only: numbers or names ("02", "02_warp", "02,05"); empty means all.
        parameters: for those notebooks that declare them; strings are read as literals of the declared type.
        force: run also what is done.
        out_dir: run folder; empty means ``runs/<profile>``.
        notebooks: folder of ``NN_*.ipynb``.
        progress: report on stderr.
        jobs: where the whole workbook is run by a profile that trains from nothing, its stages are trained before the first
            notebook, so many at once; 0 chooses, 1 leaves it to the notebooks, one stage after the other.

    Raises:
        DffError: unknown profile, notebook or parameter, a value of the wrong type, a folder that cannot be written,
            another run at work in the same folder, or a training that failed.
        KeyboardInterrupt: stopped; its message says how to continue. Finished notebooks stay as they are.
    """
    began = time.perf_counter()
    profiles.get(profile)
    every = find_notebooks(notebooks)
    selected = select(every, only)
    broken = _unreadable(selected)
    passed = assign_parameters([path for path in selected if path not in broken], profile, parameters or {}, out_dir)
    with lock_run(profile, out_dir, "dfflib reproduce") as folder:
        common = _digest_of_code()
        tasks = [_task(path, given, common) for path, given in passed.items()]
        whole = not profiles.get(profile).shipped and not only and not parameters
        if whole and jobs != 1 and not all(_is_done(task, folder) for task in tasks):
            _train_first(profile, folder, jobs, progress)
        outcomes = _run_all(tasks, folder, force, progress)
        outcomes |= {path.stem: Outcome(path, "failed", error=why) for path, why in broken.items()}
        everything = [outcomes.get(path.stem) or _outcome_before(path, folder) for path in every]
        index = pages.write_index(folder, profile, everything)
    return Summary(folder, index, everything, time.perf_counter() - began)


def _unreadable(notebooks: list[Path]) -> dict[Path, str]:
    """Those that are no notebooks, and why: they fail, and do not stop the others.

    Raises:
        DffError: no other is there.
    """
    found = {}
    for path in notebooks:
        try:
            read_notebook(path)
        except DffError as error:
            found[path] = str(error)
    if len(found) == len(notebooks):
        raise DffError(next(iter(found.values())))
    return found


# What is done already.


def _digest_of_code() -> str:
    """What every notebook and its page depend on: the library's source, the shipped checkpoints, python and torch."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted(file for file in package.rglob("*.*") if file.suffix in (".py", ".j2", ".css"))
    files = {str(file.relative_to(package)): file for file in sources}
    files |= {file.name: file for file in sorted(paths.CHECKPOINTS.glob("*.safetensors"))}
    digest = hashlib.sha256(json.dumps(_versions()).encode())
    for name, file in files.items():
        content = file.read_bytes()
        digest.update(f"{name} {len(content)} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _task(notebook: Path, parameters: dict, common: str) -> _Task:
    cells = [[cell.cell_type, cell.source] for cell in read_notebook(notebook).cells]
    text = json.dumps([cells, parameters, common], sort_keys=True)
    return _Task(notebook, parameters, hashlib.sha256(text.encode()).hexdigest(), len(cells))


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": machine.torch_version()}


def _files(folder: Path, name: str) -> dict[str, Path]:
    """Where a notebook's executed form, page and state lie."""
    return {
        "executed": folder / "notebooks" / f"{name}.ipynb",
        "running": folder / "notebooks" / f".{name}.running.ipynb",
        "failed": folder / "notebooks" / f"{name}.failed.ipynb",
        "html": folder / "html" / f"{name}.html",
        "state": folder / "state" / f"{name}.json",
    }


def _read_state(file: Path) -> dict:
    """What the last successful run noted; empty if there was none, or if the file is damaged (then it runs again)."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        names, digests = state["outputs"], state.setdefault("digests", {})  # runs before 0.2 noted no digests
        whole = isinstance(names, list) and all(
            re.fullmatch(r"(figures|results)/[^/\0]+", name) for name in [*names, *digests]
        )
        whole = whole and all(isinstance(text, str) for text in [state["key"], *digests.values()])
        known = isinstance(state["parameters"], dict) and 0 <= state["seconds"] < math.inf
        return state if whole and known else {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def finished(folder: Path) -> dict[str, dict]:
    """What every notebook noted that has finished in a run folder, by name: ``parameters``, ``digests`` of its outputs."""
    return {file.stem: state for file in sorted((folder / "state").glob("*.json")) if (state := _read_state(file))}


def digest_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is_done(task: _Task, folder: Path) -> bool:
    files = _files(folder, task.name)
    state = _read_state(files["state"])
    wrote = [files["executed"], files["html"], *(folder / name for name in state.get("outputs", []))]
    return state.get("key") == task.key and all(os.path.isfile(file) for file in wrote)


def _outcome_before(notebook: Path, folder: Path) -> Outcome:
    """Of a notebook that was not selected this time."""
    files = _files(folder, notebook.stem)
    state = _read_state(files["state"])
    status = "earlier" if state and files["html"].is_file() else "not run"
    return Outcome(notebook, status, state.get("seconds"), html=files["html"] if status == "earlier" else None)


# Running.


def _train_first(profile: str, folder: Path, jobs: int, progress: bool) -> None:
    """All that the notebooks would train, side by side."""
    from tqdm import tqdm

    from dfflib.run import Run
    from dfflib.training.jobs import train_all

    def write(line: str) -> None:
        """Print one line, above the bar if there is one."""
        if progress:
            tqdm.write(line, file=sys.stderr)

    train_all(Run.of(profile, out_dir=folder), jobs=jobs, report=write, progress=progress and sys.stderr.isatty())


def _run_all(tasks: list[_Task], folder: Path, force: bool, progress: bool) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for n, task in enumerate(tasks, 1):
        files = _files(folder, task.name)
        line = _Progress(f"[{n}/{len(tasks)}] {task.name}", task.cells + 1, progress)  # papermill adds a cell
        if not force and _is_done(task, folder):
            seconds = _read_state(files["state"])["seconds"]
            outcomes[task.name] = Outcome(task.notebook, "skipped", seconds, html=files["html"])
            line.write("up to date")
            continue
        try:
            with line:
                outcomes[task.name] = _run(task, folder, line)
        except KeyboardInterrupt:
            done = f"{len(outcomes)} of {len(tasks)} notebooks are finished and kept"
            raise KeyboardInterrupt(f"stopped in {task.name}: {done}; the same command continues there.") from None
        finally:
            files["running"].unlink(missing_ok=True)
        outcome = outcomes[task.name]
        line.write(f"{'failed after' if outcome.error else 'done in'} {outcome.seconds:.0f} s")
    return outcomes


def _run(task: _Task, folder: Path, line: "_Progress") -> Outcome:
    """Execute one notebook beside its final place, and move it there when it is complete."""
    from papermill.exceptions import PapermillExecutionError

    files = _files(folder, task.name)
    files["executed"].parent.mkdir(parents=True, exist_ok=True)
    files["failed"].unlink(missing_ok=True)
    began = time.perf_counter()
    try:
        _execute(task, files["running"], line)
        _drop_machine_paths(files["running"])
        pages.write_page(files["running"], files["html"], task.name)
    except Exception as error:  # a failing notebook is a bug to be shown, and no reason to stop the others
        if isinstance(error, PapermillExecutionError) and error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None  # the signal reached the kernel, and not us
        kept = f"; what it had done is in {files['failed']}" if files["running"].is_file() else ""
        if kept:
            files["running"].replace(files["failed"])
        return Outcome(task.notebook, "failed", time.perf_counter() - began, _describe(task.name, error) + kept)
    files["running"].replace(files["executed"])
    seconds = round(time.perf_counter() - began, 1)
    digests = {path.relative_to(folder).as_posix(): digest_of(path) for path in pages.outputs_of(task.name, folder)}
    state = dict(
        key=task.key, seconds=seconds, finished=datetime.now().astimezone().isoformat(timespec="seconds"),
        parameters=task.parameters, versions=_versions(), outputs=list(digests), digests=digests,
    )  # fmt: skip
    paths.write_atomically(files["state"], json.dumps(state, indent=1))
    return Outcome(task.notebook, "run", seconds, html=files["html"])


def _execute(task: _Task, target: Path, line: "_Progress") -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            str(task.notebook), str(target), parameters=task.parameters, progress_bar=False, kernel_name="python3",
            language="python",
            kernel_manager_class=_this_python(), on_cell_start=line.cell,
            cwd=str(paths.ROOT),  # a kernel finds dfflib there even where it is not installed
        )  # fmt: skip
    except PapermillExecutionError:
        if not _accept_intended_errors(target):
            raise


def _accept_intended_errors(executed: Path) -> bool:
    """Papermill takes every error for a failure; in a cell tagged ``raises-exception`` it is part of the lesson."""
    import nbformat

    content = nbformat.read(executed, as_version=4)
    if any(cell.metadata.get("papermill", {}).get("exception") for cell in content.cells):
        return False  # a cell without that tag stopped the notebook
    marks = "papermill-error-cell-tag"
    content.cells = [cell for cell in content.cells if marks not in cell.metadata.get("tags", [])]
    nbformat.write(content, executed)
    return True


def _this_python() -> type:
    """A kernel manager that runs this interpreter, whatever kernel named python3 the user has installed.

    The kernel has a session of its own, so Ctrl-C in a terminal does not reach it. Stopping it interrupts it first,
    which gives a training stage the time to save where it is; and a kernel ends by itself when this process is gone.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisPython(AsyncKernelManager):
        """Starts a kernel with the interpreter that runs this."""

        kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"],
            display_name="Python 3", language="python"
        )  # fmt: skip

    return ThisPython


def _drop_machine_paths(notebook: Path) -> None:
    """Papermill notes absolute paths; a notebook that is passed on should not carry them."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for name in ("input_path", "output_path"):
        content["metadata"].get("papermill", {}).pop(name, None)
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe(name: str, error: Exception) -> str:
    """One sentence for a failure: where, and the last line of the traceback."""
    ename, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    where = f"{name} failed in cell [{error.exec_count}]" if hasattr(error, "exec_count") else f"{name} failed"
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if ename == "DffError":
        return f"{where}: {text.strip().rstrip('.')}"
    return f"{where}: {ename}" + (f": {lines[-1].strip()}" if lines else "")


class _Progress:
    """One notebook's progress on stderr: in a terminal a bar over its cells, else a line at its start and its end."""

    def __init__(self, label: str, cells: int, shown: bool):
        self.label, self.cells, self.shown, self.live = label, cells, shown, shown and sys.stderr.isatty()

    def __enter__(self) -> Self:
        from tqdm import tqdm

        if not self.live:
            self.write("starts")
            return self
        self.bar = tqdm(
            desc=self.label, leave=False, bar_format="{desc}  |{bar:24}| cell {n}/{total}  {elapsed}", ascii=" .:#",
            dynamic_ncols=True, total=self.cells,
        )  # fmt: skip
        self.ended = threading.Event()
        threading.Thread(target=self._tick, daemon=True).start()
        return self

    def _tick(self) -> None:
        while not self.ended.wait(1.0):  # the clock goes on in a cell that trains for a minute
            self.bar.refresh()

    def cell(self, cell: dict, cell_index: int) -> None:
        """Called by nbclient when a cell starts."""
        if self.live:
            self.bar.n = cell_index + 1

    def __exit__(self, *exception) -> None:
        if self.live:
            self.ended.set()
            self.bar.close()

    def write(self, text: str) -> None:
        """Print one line."""
        if self.shown:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)
