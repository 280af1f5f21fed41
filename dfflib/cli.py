"""The ``dfflib`` command: thin, so that everything it does can be done from Python too.

A file that ``--out`` names is never an input of the same command, and replaced with ``--force`` only; what lies under its
default name in a run folder is renewed.

Exit codes: 0 done; 1 a notebook failed, a data set is incomplete, or a bug (with its traceback); 2 something to mend in
what was asked for (one sentence); 3 ``segment`` met the end of a damaged video. What is stopped ends with 128 and the number of
the signal, as shells have it: 130 Ctrl-C, 143 SIGTERM (``kill``, a scheduler's time limit), 129 SIGHUP (a closed terminal).
"""

import errno
import io
import sys

import click

from dfflib import __version__, limits, profiles, stopping
from dfflib.errors import DffError, as_dff_error

STAGES = (
    "keyframe",
    "flow_pretrain",
    "flow_detached",
    "joint",
    "frame",
    "fix_flow",
    "dis",
)  # of `dfflib.training.stages`

# Commands import what they need when they run: torch takes seconds, and `--help` should not.


class _Commands(click.Group):
    """The one place where errors and signals turn into sentences and exit codes."""

    def invoke(self, ctx: click.Context):
        """Run a command; what goes wrong ends it with a sentence and an exit code."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # names of files need not be text
        with stopping.interrupting() as last_signal:
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as stop:
                click.echo(str(stop) or "stopped.", err=True)
                ctx.exit(128 + (last_signal() or stopping.SIGNALS[0]))
            except Exception as error:
                told = None if getattr(error, "errno", 0) == errno.EPIPE else as_dff_error(error)
                if told is None:  # a bug keeps its traceback; where the reader of our output has gone, click settles it
                    raise
                click.echo(f"error: {_on_one_line(str(told))}", err=True)
                ctx.exit(2)


def _on_one_line(text: str) -> str:
    """A sentence whose values cannot break it, nor talk to the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class Checked(click.ParamType):
    """A value that is checked where it is read, by one of the functions of `dfflib.limits`, which refuse with a sentence."""

    def __init__(self, name: str, check):
        self.name, self.check = name, check

    def convert(self, value, param, ctx):
        """The value in its own type."""
        called = param.opts[0] if param.opts[0].startswith("-") else param.name.upper()
        return self.check(value, called)


def _number(name: str) -> Checked:
    whole = limits.OPTIONS[name].kind is int
    return Checked("whole number" if whole else "number", lambda value, called: limits.check(name, value, called))


PATH = Checked("path", limits.check_path)
PROFILE = Checked("profile", lambda value, called: profiles.get(value).name)
SIZE = Checked("size", lambda value, called: limits.parse_size(value, called))


_profile = click.option(
    "--profile", type=PROFILE, default="smoke", show_default=True, metavar="NAME", help="Scale: smoke, laptop, gpu or paper."
)  # fmt: skip
_seed = click.option(
    "--seed", type=_number("seed"), default=0, show_default=True, metavar="N", help="For python, numpy and torch."
)
_interval = click.option(
    "--interval", type=_number("interval"), default=5, show_default=True, metavar="N",
    help="Key-frame interval l, in frames; 1 makes every frame a key frame.",
)  # fmt: skip
_jobs = click.option("--jobs", type=_number("jobs"), default=0, metavar="N", help="Stages trained at once; 0 chooses.")
_out_dir = click.option(
    "--out-dir", type=PATH, metavar="FOLDER", callback=lambda ctx, param, value: value or "",
    help="Run folder, instead of runs/<profile>; what a run writes there is renewed.",
)  # fmt: skip


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dfflib")
def main() -> None:
    """Deep Feature Flow: run the notebooks, segment a video, train, evaluate."""


@main.command()
@_profile
@click.option("--only", multiple=True, metavar="NN", help="Only these: 02, 02_warp or 02,05; may be repeated.")
@click.option("-p", "--parameter", multiple=True, metavar="NAME=VALUE", help="A notebook parameter; may be repeated.")
@click.option("--force", is_flag=True, help="Run also what is done already.")
@_out_dir
@_jobs
def reproduce(profile: str, only: tuple, parameter: tuple, force: bool, out_dir: str, jobs: int) -> None:
    """Run the notebooks in order, and gather their figures and tables in one page.

    A profile that trains from nothing does so first, several stages at once. What is done with the same code and
    parameters is skipped; after an interruption the same command continues.
    """
    from dfflib.workbook.reproduce import reproduce as run

    summary = run(profile, only, _pairs(parameter), force, out_dir, jobs=jobs)
    click.echo(summary)
    for outcome in summary.failed:
        click.echo(f"error: {outcome.error}", err=True)
    sys.exit(1 if summary.failed else 0)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise DffError(f"parameter {text!r} is not of the form NAME=VALUE: write, say, -p seed=1.")
        pairs[name.strip()] = value.strip()
    return pairs


@main.command()
@click.argument("video", type=PATH)
@click.option("--out", type=PATH, metavar="FILE", help="Overlay video, not VIDEO itself; by default named after VIDEO.")
@_interval
@click.option("--checkpoint", type=PATH, metavar="FILE", help="Weights, instead of the shipped ones.")
@click.option("--flow", type=click.Choice(["network", "dis", "dis-half", "zero"]), default="network", show_default=True,
              help="What moves the features: the trained network, OpenCV's DIS at full or half size, or nothing.")  # fmt: skip
@click.option("--mode", type=click.Choice(["batched", "online"]), default="batched", show_default=True,
              help="All frames of an interval at once, or each before the next is read.")  # fmt: skip
@click.option("--labels", type=click.Choice(["full", "coarse"]), default="full", show_default=True,
              help="Enlarge class scores, or, cheaper, the labels.")  # fmt: skip
@click.option("--compile", is_flag=True, help="Use torch.compile; pays for long videos.")
@click.option("--short-side", type=_number("short_side"), metavar="N", help="Resize frames to this many pixels first.")
@click.option("--fps", type=_number("fps"), metavar="F",
              help="Frames per second of a folder (25 unless given), or in place of the times that a file states.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the file of --out.")
def segment(video: str, force: bool, **options) -> None:
    """Segment VIDEO (a file or a folder of frames) and write it with the classes painted over.

    Frames keep their times; sound is dropped. Until all is written, and after an interruption, the file is called
    NAME.part.mp4.
    """
    from dfflib.inference.stream import default_out, segment_video
    from dfflib.paths import output_file

    options["out"] = output_file(options["out"] or default_out(video), (video,), force=force)
    done = segment_video(video, progress=True, **options)
    speed = f"in {done.seconds:.1f} s, {done.fps:.1f} frames a second"
    click.echo(f"{done.frames} frames ({done.key_frames} key frames) {speed}: {done.out}")
    for remark in done.remarks:
        click.echo(remark, err=True)
    if done.problem:
        click.echo(done.problem, err=True)
        sys.exit(3)


@main.command()
@click.option(
    "--size", type=SIZE, default="512x256", show_default=True, metavar="WxH", help="Of the frames, in pixels."
)
@click.option("--interval", type=_number("interval"), default=10, show_default=True, metavar="N",
              help="l for which the parts are timed, 40 at most.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default=None, help="Default: a GPU where there is one.")
@click.option("--threads", type=_number("threads"), metavar="N",
              help="Of the CPU, four a core at most; default PyTorch's choice.")  # fmt: skip
@click.option("--out-dir", type=PATH, metavar="FOLDER",
              help="For table and figure, which are renewed there; default runs/bench.")  # fmt: skip
def bench(size: tuple, interval: int, device: str | None, threads: int | None, out_dir: str | None) -> None:
    """How fast is it here? Parts, intervals and whole pipelines, beside what else one could run."""
    from dfflib.evaluation import bench as run
    from dfflib.machine import describe_device, versions
    from dfflib.paths import run_folder

    folder = run_folder("bench", out_dir or "")
    rows = run.bench(size, interval, device or "", threads or 0, folder)
    for name, table in run.summary(rows).items():
        click.echo(f"\n{name}\n{table.round(2).to_string()}")
    written = f"{folder}/results/bench.csv and {folder}/figures/bench.png"
    click.echo(f"\n{versions()} on {describe_device()}; written to {written}")


@main.command()
@click.argument("stage", type=click.Choice(STAGES))
@_profile
@_seed
@_out_dir
@click.option("--steps", type=_number("steps"), metavar="N", help="Instead of the profile's.")
@click.option(
    "--fresh", is_flag=True, help="Forget where an interrupted run stopped, and train again what is finished."
)
@click.option("--recipe", default="threshold", show_default=True, metavar="NAME",
              help="Data and model: threshold, study, shapes, camvid, or another of training/recipes.py.")  # fmt: skip
def train(stage: str, profile: str, seed: int, out_dir: str, **options) -> None:
    """Train STAGE, after the stages that it starts from; an interrupted run continues.

    An earlier result stands until the new one is whole; one of more steps is replaced only with --fresh.
    """
    from dfflib.locks import lock_run
    from dfflib.run import Run
    from dfflib.training import recipes

    recipes.get(options["recipe"])  # refuses what it does not know, before there is a run folder
    stopping.stop_with_parent()
    with lock_run(profile, out_dir, f"dfflib train {stage}", shared=True):
        from dfflib.training.train import train_stage

        try:
            trained = train_stage(Run.of(profile, seed, out_dir), stage, progress=True, **options)
        except KeyboardInterrupt as stop:
            where = str(stop) or f"stage {stage}"
            same = "without --fresh, the same command" if options["fresh"] else "the same command"
            raise KeyboardInterrupt(f"stopped at {where}; {same} continues.") from None
    click.echo(f"{trained.summary}\nSHA-256 of its weights as they would ship: {trained.digest}")


@main.command()
@click.argument("recipe", nargs=-1)
@_profile
@_jobs
@_out_dir
def train_all(recipe: tuple[str, ...], profile: str, jobs: int, out_dir: str) -> None:
    """Train every stage of RECIPEs, several at once; without one, of all whose data is here.

    What is trained already is left alone, and what was interrupted continues.
    """
    from tqdm import tqdm

    from dfflib.locks import lock_run
    from dfflib.run import Run
    from dfflib.training.jobs import every_recipe, plan
    from dfflib.training.jobs import train_all as run

    plan(recipe, profile)  # refuses what it does not know, before there is a run folder
    with lock_run(profile, out_dir, "dfflib train-all"):
        names = recipe or every_recipe()
        trained = run(Run.of(profile, out_dir=out_dir), names, jobs, tqdm.write, sys.stderr.isatty())
    click.echo(f"{len(trained)} stages trained." if trained else "Everything was trained before.")


@main.command()
@click.option("--checkpoint", type=PATH, metavar="FILE", help="Weights; default the profile's jointly trained ones.")
@_profile
@_interval
@_seed
@click.option(
    "--out", type=PATH, metavar="FILE.csv", help="Default runs/<profile>/results/evaluate.csv, which is renewed."
)
@click.option("--force", is_flag=True, help="Overwrite the file of --out.")
def evaluate(checkpoint: str | None, out: str | None, profile: str, seed: int, **options) -> None:
    """Accuracy by distance from the key frame, on the test part of the intensity-threshold set."""
    from dfflib.evaluation.offsets import evaluate_checkpoint
    from dfflib.paths import RUNS
    from dfflib.run import Run

    table = evaluate_checkpoint(Run.of(profile, seed), checkpoint or "", out=out or "", progress=True, **options)
    click.echo(_compact(table))
    click.echo(f"written to {out or RUNS / profile / 'results' / 'evaluate.csv'}")


@main.command()
@click.option(
    "--profile", type=PROFILE, required=True, metavar="NAME", help="That made the run; the one that README.md names."
)
@_out_dir
def publish(profile: str, out_dir: str) -> None:
    """Renew what the repository shows from a finished run: shipped checkpoints, figures, and the README's tables.

    Everything is checked first; then all of it is written, or nothing.
    """
    from dfflib.workbook.publish import publish as run

    written = run(profile, out_dir)
    for path in written:
        click.echo(path)
    if not written:
        click.echo("The repository shows this run already: nothing has changed.")


@main.group()
def data() -> None:
    """Copies of published data sets on this machine."""


@data.command()
@click.argument("name")
@click.argument("path", type=PATH, required=False)
def check(name: str, path: str | None) -> None:
    """Is the copy of NAME in PATH complete? Counts what it holds, beside the official numbers.

    Without PATH it is looked for in data/, or in the folder that DFFLIB_DATA names. Exit code 1: something is missing.
    """
    from dfflib.data.catalogue import check as count

    counts = count(name, path or "")
    width = max(len(line.what) for line in counts)
    for line in counts:
        state = "ok" if line.complete else "MISSING"
        official = "?" if line.official is None else f"{line.official:,}"
        if not line.needed and line.found < (line.official or 0):
            state = "absent, not needed"
        note = f"; {line.note}" if line.note and line.found != line.official else ""
        click.echo(f"{line.what:{width}}  {line.found:>9,} of {official:>9}  {state}{note}")
    missing = [line for line in counts if not line.complete]
    click.echo(f"{name} is {'incomplete: begin with ' + missing[0].what if missing else 'complete'}.")
    sys.exit(1 if missing else 0)


def _compact(table) -> str:
    """Tidy rows as one row per method and metric, one column per offset; as they are if that does not fit."""
    keys = ["method", "metric", "offset"]
    if not {*keys, "value"} <= set(table) or table.duplicated(keys).any():
        return table.to_string(index=False)
    wide = table.pivot(index=keys[:2], columns="offset", values="value")
    return wide.to_string(float_format=lambda value: f"{value:.4g}", na_rep="")
