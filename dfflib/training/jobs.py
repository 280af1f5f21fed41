"""Everything that a run of the workbook trains, side by side: one process a stage, so that no core waits for another.

Networks as small as ours use one core well and two badly. So several stages are trained at once, each by its own
``dfflib train`` with its share of the cores, as soon as the stages that it starts from are done. What is stopped continues,
what is trained already is left alone, and nobody trains the same twice.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Self

from tqdm import tqdm

from dfflib import machine, paths, profiles
from dfflib.data import catalogue
from dfflib.errors import DffError
from dfflib.run import Run
from dfflib.stopping import PARENT, SAVE_SECONDS
from dfflib.training import recipes, train

MOST = 4  # processes, unless more are asked for: few stages wait for nothing, and each takes a gigabyte
POLL = 0.3  # seconds


class Job(NamedTuple):
    """One stage of one recipe with one seed."""

    recipe: str
    stage: str
    seed: int

    @property
    def name(self) -> str:
        """Of its checkpoint."""
        return Path(recipes.checkpoint_name(self.stage, self.seed, self.recipe)).stem


def plan(names: Iterable[str], profile: str, supplementary: bool = True) -> dict[Job, set[Job]]:
    """Every stage that the tables and figures of some recipes need, with those it starts from; the longest way first.

    Args:
        names: recipes.
        profile: how many steps a stage has.
        supplementary: those too that `dfflib.training.recipes.Recipe.is_supplementary` names.

    Raises:
        DffError: no such recipe or profile.
    """
    chosen = profiles.get(profile)
    starts: dict[Job, set[Job]] = {}

    def wanted(job: Job) -> bool:
        """Is it to be trained, or taken?"""
        return supplementary or not recipes.get(job.recipe).is_supplementary(job.stage, job.seed)

    def add(job: Job) -> None:
        """A job and all before it."""
        if job not in starts:
            recipe = recipes.get(job.recipe)
            before = [Job(recipe.owner(s), s, recipe.seed_of(s, job.seed)) for s in recipe.starts(job.stage)]
            before = [other for other in before if wanted(other)]
            starts[job] = set(before)
            for other in before:
                add(other)

    for name in names:
        for stage, seeds in recipes.get(name).seeds.items():
            for seed in seeds:
                if wanted(job := Job(name, stage, seed)):
                    add(job)

    def steps_to_go(job: Job) -> int:
        """Steps from the beginning of a job to the end of the longest chain of jobs that wait for it."""
        later = [steps_to_go(other) for other, before in starts.items() if job in before]
        return recipes.get(job.recipe).steps(job.stage, chosen) + max(later, default=0)

    return {job: starts[job] for job in sorted(starts, key=lambda job: (-steps_to_go(job), job))}


def every_recipe() -> list[str]:
    """Names of all recipes whose data is on this machine."""
    return [name for name, recipe in recipes.RECIPES.items() if not recipe.needs or catalogue.find(recipe.needs)]


def workers(jobs: int = 0) -> tuple[int, int]:
    """How many processes train at once, and how many threads each has.

    Args:
        jobs: processes; 0 chooses: one on a GPU, else as many as there are cores, at most `MOST`.
    """
    import torch

    cores = machine.cores()
    jobs = jobs or (1 if torch.cuda.is_available() else min(cores, MOST))
    return jobs, max(1, cores // jobs)


def train_all(
    run: Run, names: Iterable[str] = (), jobs: int = 0, report: Callable[[str], None] = print,
    progress: bool = False,
) -> list[Job]:  # fmt: skip
    """Train what is not trained yet, side by side.

    Each stage writes a log, ``<run>/train/<name>.log``.

    Args:
        run: sizes and lengths, and the folder; every recipe names its own seeds.
        names: recipes; without any, those that a profile trains from nothing (`recipes.FROM_NOTHING`), and of these not what is
            supplementary.
        jobs: stages at once; 0 chooses (`workers`).
        report: is given one line when a stage starts, and one when it is done.
        progress: show a bar over all steps, on stderr.

    Returns:
        What was trained.

    Raises:
        DffError: a stage failed (the others save where they are), or there is no such recipe or profile.
        KeyboardInterrupt: stopped; every stage has saved where it is. Its message says how to continue.
    """
    if jobs < 0:
        raise DffError(f"{jobs} stages cannot be trained at once: choose 1 or more, or 0 for a number that suits.")
    profile, todo = run.profile.name, {}
    folder = paths.run_dir(profile, run.folder)
    names = list(names)
    for job, before in plan(names or recipes.FROM_NOTHING, profile, bool(names)).items():
        if not train.is_trained(run.with_seed(job.seed), job.stage, job.recipe):
            todo[job] = before
    count, threads = workers(jobs)
    waiting, done = dict(todo), list[Job]()
    with _Processes(profile, folder, threads, len(todo), report, progress) as processes:
        while waiting or processes.running:
            ready = [job for job, before in waiting.items() if before.isdisjoint(todo.keys() - set(done))]
            for job in ready[: count - len(processes.running)]:
                del waiting[job]
                processes.start(job)
            done += processes.finished()
            time.sleep(POLL)
    return done


def command(job: Job, profile: str, folder: Path) -> list[str]:
    """What trains one stage."""
    return [
        *(sys.executable, "-m", "dfflib", "train", job.stage, "--profile", profile, "--seed", str(job.seed)),
        *("--recipe", job.recipe, "--out-dir", str(folder)),
    ]


class _Started(NamedTuple):
    """A process that trains a stage, its log, and when it was started."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def stop(self) -> None:
        """Close its standard input, by which it knows that it shall save and end."""
        if self.process.stdin:
            self.process.stdin.close()


class _Processes:
    """The processes that train now. Leaving it by an error stops them, and waits until they have saved.

    Each stage watches its standard input: it stops when that closes, which it does also where this process is killed.
    """

    def __init__(
        self, profile: str, folder: Path, threads: int, total: int, report: Callable[[str], None], progress: bool
    ):
        self.profile, self.folder, self.threads, self.total, self.report = profile, folder, threads, total, report
        self.running: dict[Job, _Started] = {}
        self.steps: dict[Job, int] = {}
        self.started = 0
        self.bar = tqdm(desc="training", unit=" steps", leave=False, disable=not progress)

    def __enter__(self) -> Self:
        return self

    def start(self, job: Job) -> None:
        """Train one stage, in a process of its own."""
        log = self.folder / "train" / f"{job.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command(job, self.profile, self.folder), cwd=paths.ROOT, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads), PARENT: str(os.getpid())},
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.running[job] = _Started(process, log, time.perf_counter())
        self.started += 1
        self.report(f"[training {self.started}/{self.total}] {job.name}: starts")

    def finished(self) -> list[Job]:
        """Stages that have ended since the last look.

        Raises:
            DffError: one of them failed.
        """
        ended = [job for job, one in self.running.items() if one.process.poll() is not None]
        for job in ended:
            one = self.running.pop(job)
            one.stop()
            if one.process.returncode:
                lines = one.log.read_text(errors="replace", encoding="utf-8").replace("\r", "\n").strip().splitlines()
                last = (lines or ["it said nothing"])[-1].removeprefix("error: ")
                raise DffError(f"training {job.name} failed: {last} (all it said is in {one.log}).")
            self.report(f"[training] {job.name}: done in {time.perf_counter() - one.began:.0f} s")
        self._look()
        return ended

    def _look(self) -> None:
        """Renew the bar, from the last step that each log speaks of."""
        if self.bar.disable:
            return
        for job, one in self.running.items():
            with open(one.log, "rb") as file:
                file.seek(max(0, one.log.stat().st_size - 400))
                found = re.findall(rb"(\d+)/\d+ \[", file.read())
            if found:
                self.steps[job] = int(found[-1])
        self.bar.n = sum(self.steps.values())
        self.bar.refresh()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        for one in self.running.values():
            one.stop()
        for one in self.running.values():
            try:
                one.process.wait(SAVE_SECONDS)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
        if kind is KeyboardInterrupt:
            raise KeyboardInterrupt("stopped in training; the same command continues there.") from None
