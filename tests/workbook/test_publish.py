"""The README's table is what the result files say, and the shipped checkpoints are what their table says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from dfflib import profiles
from dfflib.cli import main
from dfflib.errors import DffError
from dfflib.evaluation import headline
from dfflib.models.build import build
from dfflib.models.checkpoints import save_checkpoint
from dfflib.paths import CHECKPOINTS, FIGURES, NOTEBOOKS, ROOT, write_atomically
from dfflib.training import recipes, trainer
from dfflib.training.stages import PARTS
from dfflib.workbook import pages, publish
from dfflib.workbook.checkpoint_page import checkpoint_page
from dfflib.workbook.claims import write_ledger
from dfflib.workbook.reproduce import digest_of


def rows(values):
    """Tidy rows with one value for (seed, offset, method, metric)."""
    return pd.DataFrame(
        [
            dict(seed=seed, offset=offset, method=method, metric=metric, value=value, device="cpu")
            for (seed, offset, method, metric), value in values.items()
        ]
    )


def test_table_shows_mean_spread_and_gap():
    values = {}
    for seed in (0, 1, 2):
        for offset in (0, 1):
            for metric in ("miou", "agreement"):
                values[seed, offset, "Frame", metric] = 100.0
                values[seed, offset, "copy", metric] = 90.0 - 10 * offset
                values[seed, offset, "DFF", metric] = 95.0 - 10 * offset + seed
                values[seed, offset, "DFF, S = 1", metric] = 93.0 - 10 * offset
                values[seed, offset, "DIS", metric] = values[seed, offset, "S alone", metric] = 80.0
    lines = publish.results_table(rows(values), interval=2).splitlines()
    assert lines[2] == (
        "| 0 | 100.0 ± 0.0 | 90.0 ± 0.0 | 80.0 ± 0.0 | 96.0 ± 1.0 | 90.0 ± 0.0 | 80.0 ± 0.0 | 80.0 ± 0.0 | 93.0 ± 0.0 "
        "| 96.0 ± 1.0 | +6.0 ± 1.0 |"
    )
    assert lines[4] == (
        "| average | 100.0 ± 0.0 | 85.0 ± 0.0 | 80.0 ± 0.0 | 91.0 ± 1.0 | 85.0 ± 0.0 | 80.0 ± 0.0 | 80.0 ± 0.0 "
        "| 88.0 ± 0.0 | 91.0 ± 1.0 | +6.0 ± 1.0 |"
    )
    assert "over 3 seeds" in lines[-1] and "cpu" in lines[-1]


def numbers(values, unit="points"):
    """Tidy rows with one value for (method, interval, metric)."""
    keys = [dict(zip(("method", "interval", "metric"), key, strict=True)) for key in values]
    made = pd.DataFrame([key | dict(value=value) for key, value in zip(keys, values.values(), strict=True)])
    return made.assign(unit=unit, dataset="shapes/study/test", device="cpu")


def gaps(*names, at=(5, 10), scenes=1000):
    """Differences of 1 to 3 points."""
    bounds = dict(difference=2.0, low=1.0, high=3.0, seeds=1, scenes=scenes)
    return numbers({(name, n, metric): value for name in names for n in at for metric, value in bounds.items()})


def test_methods_stand_beside_their_distance_from_dff():
    values = {(name, n, "miou"): 60.0 - n for name in ("DFF", "copy") for n in (5, 10)}
    table = numbers(values | {(name, 10, "seeds"): seeds for name, seeds in (("DFF", 3), ("copy", 1))}, "%")
    lines = publish.methods_table(table, gaps("copy minus DFF")).splitlines()
    assert lines[0] == "| variant | l = 5 | l = 10 | DFF minus it, l = 5 | DFF minus it, l = 10 |"
    assert lines[2] == "| DFF | 55.0 | 50.0 | - | - |"
    assert lines[3] == "| copy | 55.0 | 50.0 | -2.0 [-3.0, -1.0] | -2.0 [-3.0, -1.0] |"
    assert "1 to 3 seeds, 1000 test scenes" in lines[-1] and "shapes/study/test" in lines[-1]


def test_the_headline_names_what_it_has_and_where_a_light_network_is_ahead():
    at = (5, 10, 20)
    values = {(name, n, "miou"): 70.0 for name in headline.METHODS for n in at}
    values |= {(name, n, "fps"): 40.0 * (n if name in ("DFF", "copy", "DIS + N") else 6)
               for name in headline.METHODS if name != "exact" for n in at}  # fmt: skip
    table = numbers(values | {("Frame", n, "fps"): 40.0 for n in at}, "%")
    found = gaps("DFF minus Frame", "DFF minus Light", "Lighter minus DFF", at=at)
    lines = publish.headline_table(table, found).splitlines()
    assert lines[2] == "| Frame | 70.0 | 40 | 70.0 | 40 | 70.0 | 40 |" and "| exact | 70.0 | - |" in lines[6]
    text = "\n".join(lines)
    assert "5.0 times as fast at l = 5, at a loss of -2.0 points of mIoU [-3.0, -1.0]" in text
    assert "as fast as *Light* on every frame or faster, and better, at l = 10, 20" in text
    assert "At no interval is it both as fast as *Lighter*" in text and "over 1000 test scenes" in lines[-1]


def test_readme_table_is_generated():
    readme = publish.README.read_text(encoding="utf-8")
    assert publish.with_results(readme) == readme, "run `dfflib publish` again"


def test_checkpoint_table_is_generated():
    assert (publish.CHECKPOINTS / "README.md").read_text(encoding="utf-8") == checkpoint_page(), (
        "run `dfflib publish` again"
    )
    assert {path.stem for path in publish.CHECKPOINTS.glob("*.safetensors")} == set(publish.SHIPPED)


def test_readme_without_markers_is_refused():
    with pytest.raises(DffError, match="lacks the lines"):
        publish.with_results("# no table here")


# Publishing a run.


def files_of(folder: Path) -> dict:
    """Every file of a folder, by name: its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def note(run: Path, name: str, profile: str = "laptop", **parameters) -> None:
    """What `dfflib reproduce` leaves of a notebook that has finished."""
    digests = {path.relative_to(run).as_posix(): digest_of(path) for path in pages.outputs_of(name, run)}
    state = dict(key="any", seconds=1.0, parameters=dict(profile=profile, out_dir=str(run), **parameters),
                 outputs=list(digests), digests=digests)  # fmt: skip
    write_atomically(run / "state" / f"{name}.json", json.dumps(state))


def lay_out(folder: Path, checkpoints: str = "keyframe_s0.*", link=os.link) -> tuple[Path, Path]:
    """A copy of what the repository shows, and the run that it was published from: (repository, run)."""
    repo, run = folder / "repo", folder / "run"
    for target in (repo, run):
        for kind in ("checkpoints", "figures", "figures/results" if target == repo else "results"):
            (target / kind).mkdir(parents=True)
    for path in FIGURES.glob("results/*.csv"):
        link(path, repo / "figures" / "results" / path.name)
        shutil.copy(path, run / "results")
    for path in FIGURES.glob("*.*"):
        link(path, repo / "figures" / path.name)
        if path.suffix in (".png", ".gif"):
            shutil.copy(path, run / "figures")
    for path in CHECKPOINTS.glob(checkpoints):
        link(path, repo / "checkpoints" / path.name)
        shutil.copy(path, run / "checkpoints")
    (repo / "checkpoints" / "README.md").write_text(checkpoint_page(repo / "checkpoints"), encoding="utf-8")
    shutil.copy(publish.README, repo)
    for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
        note(run, path.stem)
    return repo, run


def show(monkeypatch, repo: Path) -> None:
    """Let a copy stand for the repository."""
    monkeypatch.setattr(publish, "README", repo / "README.md")
    monkeypatch.setattr(publish, "FIGURES", repo / "figures")
    monkeypatch.setattr(publish, "CHECKPOINTS", repo / "checkpoints")


def test_publishing_what_is_published_changes_nothing(tmp_path, monkeypatch):
    repo, run = lay_out(tmp_path, "*.*")
    show(monkeypatch, repo)
    before = files_of(repo)
    assert before["README.md"] == publish.README.read_bytes()
    assert publish.publish("laptop", run) == [] and files_of(repo) == before


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first of something in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def rewrite(run: Path, file: str, change) -> None:
    """A result file as its notebook might have left it."""
    path = run / file
    change(pd.read_csv(path)).to_csv(path, index=False)
    note(run, next(NOTEBOOKS.glob(f"{path.name[:2]}_*")).stem)


def trained(run: Path, name: str = "keyframe_s0", **changes) -> None:
    """A checkpoint as the laptop profile trains it, or nearly."""
    recipe, laptop = recipes.get("threshold"), profiles.get("laptop")
    stage = name.rpartition("_")[0]
    steps = changes.get("steps", laptop.steps[stage])
    settings = trainer.Settings(
        stage, 0, steps, laptop.batch, laptop.crop, laptop.short_side, laptop.max_interval, (), "threshold"
    )
    about = dict(settings=settings.digest(), stage=stage, seed=0, steps=steps, batch=laptop.batch, crop=laptop.crop,
                 short_side=laptop.short_side, data=recipe.about, device="cpu", seconds=1.0, metric=0.5)  # fmt: skip
    path = run / "checkpoints" / f"{name}.safetensors"
    save_checkpoint(path, build(**recipe.model), recipe.model, PARTS[stage], **(about | changes))
    path.with_suffix(".csv").write_text(f"step,loss,lr,metric,seconds\n{steps},0.5,0.1,0.5,1.0\n", encoding="utf-8")


SHOWN, PICTURE = "results/07_by_offset.csv", "figures/07_by_offset.png"


def redone(change, file: str = SHOWN):
    """A result file that its notebook wrote in another way."""
    return lambda run: rewrite(run, file, change)


def replaced(file: str, content: bytes, noted: bool = True):
    """A file with another content, of which its notebook knows or not."""
    return lambda run: [(run / file).write_bytes(content), noted and note(run, "07_key_interval")]


CUT = (FIGURES / SHOWN).read_bytes().replace(b'2 threads",,0.1.0', b'2 threads"', 1)
REFUSED = {
    "nothing has been run": (lambda run: shutil.rmtree(run / "state"), "belongs to no notebook that has finished"),
    "an empty folder": (lambda run: [shutil.rmtree(run), run.mkdir()], "no notebook has finished"),
    "a damaged state": (replaced("state/07_key_interval.json", b"{", False), "belongs to no notebook"),
    "another profile": (lambda run: note(run, "07_key_interval", "smoke"), "was run with profile=smoke"),
    "another interval": (lambda run: note(run, "07_key_interval", interval=3), "interval=3"),
    "a number edited by hand": (lambda run: edit(run / SHOWN, "91.6518", "81.6518"), "is not what notebook 07"),
    "a file that is gone": (lambda run: (run / SHOWN).unlink(), "is not what notebook 07"),
    "a figure drawn again": (replaced(PICTURE, b"new", False), "07_by_offset.png is not what"),
    "garbage": (replaced(SHOWN, b"\0\xff"), "07_by_offset.csv is no file of results (it is no UTF-8 text)"),
    "a cut row": (replaced(SHOWN, CUT), "07_by_offset.csv is no file of results (row 2: "),
    "a file cut between rows": (redone(lambda rows: rows.iloc[:-4]), "lacks 4 of the rows"),
    "no rows": (redone(lambda rows: rows[:0]), "it has no rows"),
    "one seed": (redone(lambda rows: rows[rows.seed == 0]), "has seeds [0] of [0, 1, 2]"),
    "a seed of no profile": (redone(lambda rows: rows.assign(seed=7), "results/09_masks.csv"), "has seeds [7]"),
    "a missing number": (redone(lambda rows: rows.assign(value=rows.value.where(rows.index != 5))), "row 7 lacks value"),
    "a number twice": (redone(lambda rows: pd.concat([rows, rows[:1]])), "row 722 repeats"),
    "infinity": (redone(lambda rows: rows.assign(value=float("inf")), "results/10_bench.csv"), "value is 'inf', which"),
    "no device": (redone(lambda rows: rows.assign(device=None)), "row 2 lacks device"),
    "two devices": (redone(lambda rows: rows.assign(device=rows.seed.map("cpu {}".format))), "measured on 'cpu 0' and 'cpu 1'"),
    "a data set less": (redone(lambda rows: rows[rows.dataset == "shapes/medium/test"], "results/09_masks.csv"), "davis2016"),
    "a picture that is none": (replaced(PICTURE, b"new"), "07_by_offset.png is no readable picture"),
    "a cut picture": (replaced(PICTURE, (FIGURES / "07_by_offset.png").read_bytes()[:5000]), "is no readable picture"),
    "a picture of another kind": (replaced(PICTURE, (FIGURES / "00_quickstart.gif").read_bytes()), "is a gif file"),
    "a checkpoint of sixty steps": (lambda run: trained(run, steps=60), "its steps is 60, of profile laptop it is 400"),
    "another stage's checkpoint": (lambda run: trained(run, stage="joint"), "its stage is 'joint'"),
    "another seed's checkpoint": (lambda run: trained(run, seed=1), "its seed is 1"),
    "a checkpoint of other settings": (lambda run: trained(run, settings="0123456789"), "other settings than today's"),
    "a checkpoint of another world": (lambda run: trained(run, data="shapes"), "its data is 'shapes'"),
    "a garbage checkpoint": (replaced("checkpoints/keyframe_s0.safetensors", b"new"), "not a readable checkpoint"),
    "a log of another training": (
        lambda run: [trained(run), edit(run / "checkpoints" / "keyframe_s0.csv", "400", "399")], "is not the log of 400 steps"
    ),
    "new checkpoints without all numbers": (
        lambda run: [trained(run), (run / "state" / "02_warp.json").unlink(), (run / "results" / "02_warp_cost.csv").unlink()],
        "02_warp have not finished",
    ),
    "numbers without their checkpoints": (
        redone(lambda rows: rows.assign(value=rows.value / 2)), "the checkpoints that it was measured with are not in"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """(repository, run) that tests copy, or leave as they are."""
    return lay_out(tmp_path_factory.mktemp("laid out"))


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_prove_itself_is_refused_and_nothing_changes(laid_out, tmp_path, monkeypatch, case):
    repo, run = laid_out[0], tmp_path / "run"
    shutil.copytree(laid_out[1], run)
    for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
        note(run, path.stem)
    show(monkeypatch, repo)
    change, words = REFUSED[case]
    change(run)
    before = files_of(repo)
    with pytest.raises(DffError) as refused:
        publish.publish("laptop", run)
    assert words in str(refused.value), refused.value
    assert files_of(repo) == before


@pytest.mark.parametrize("profile, words", [
    ("smoke", "starts from the checkpoints that are published"), ("shipped", "starts from the checkpoints"),
    ("gpu", "README.md says that its numbers are of profile laptop"), ("enormous", "there is no profile"),
])  # fmt: skip
def test_a_profile_that_the_readme_does_not_speak_of_is_refused(laid_out, monkeypatch, profile, words):
    repo, run = laid_out
    show(monkeypatch, repo)
    before = files_of(repo)
    with pytest.raises(DffError, match=words):
        publish.publish(profile, run)
    assert files_of(repo) == before
    with pytest.raises(TypeError, match="profile"):
        publish.publish()


def test_there_is_no_default_profile_and_no_run_is_made(tmp_path, monkeypatch):
    result = CliRunner().invoke(main, ["publish", "--out-dir", str(tmp_path)])
    assert result.exit_code == 2 and "--profile" in result.output
    result = CliRunner().invoke(main, ["publish", "--profile", "laptop", "--out-dir", str(tmp_path / "absent")])
    assert result.exit_code == 2 and "there is no run" in result.output and not (tmp_path / "absent").exists()


def test_a_page_of_another_encoding_is_written_whole(tmp_path):
    """Publishing from a process whose locale is not UTF-8 leaves README and ledger as they are."""
    repo, run = lay_out(tmp_path)
    rewrite(run, "results/03_keyframe.csv", lambda rows: rows.assign(value=rows.value / 2))
    before = files_of(repo)
    code = (
        "from pathlib import Path; from dfflib.workbook import publish as p; import sys; repo = Path(sys.argv[1]); "
        "p.README = repo / 'README.md'; "
        "p.FIGURES, p.CHECKPOINTS = repo / 'figures', repo / 'checkpoints'; print(p.publish('laptop', sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(repo), str(run)], check=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
             "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    after = files_of(repo)
    assert [name for name in after if after[name] != before[name]] == ["figures/results/03_keyframe.csv"]


@pytest.fixture
def renewed(tmp_path, monkeypatch):
    """A repository, and a run with two new checkpoints, a new figure and new numbers that prove themselves."""
    repo, run = lay_out(tmp_path)
    show(monkeypatch, repo)
    names = ("keyframe_s0", "flow_pretrain_s0")
    monkeypatch.setattr(publish, "_TRAINED", {name: (name.rpartition("_")[0], 0, "threshold") for name in names})
    for name in names:
        trained(run, name)
    rewrite(run, SHOWN, lambda rows: rows.assign(value=rows.value / 2, device="a<b>|c`d"))
    rewrite(run, "results/08_differences.csv", lambda rows: rows.assign(value=rows.value / 2))
    shutil.copy(run / "figures" / "08_methods.png", run / "figures" / "07_by_offset.png")
    (run / "results" / "evaluate.csv").write_text("of another command", encoding="utf-8")
    note(run, "07_key_interval")
    return repo, run


def test_a_run_that_proves_itself_is_published(renewed):
    repo, run = renewed
    before = files_of(repo)
    written = {path.relative_to(repo).as_posix() for path in publish.publish("laptop", run)}
    after = files_of(repo)
    assert written == {name for name in after if after[name] != before.get(name)} == {
        "checkpoints/README.md", "checkpoints/keyframe_s0.safetensors", "checkpoints/keyframe_s0.csv",
        "checkpoints/flow_pretrain_s0.safetensors", "checkpoints/flow_pretrain_s0.csv", "figures/claims.md",
        "figures/results/07_by_offset.csv", "figures/results/08_differences.csv", "figures/07_by_offset.png", "README.md",
    }  # fmt: skip
    readme = after["README.md"].decode()
    assert "| average | 46.0 ± 0.1 |" in readme and "l = 5; a&#60;b&#62;&#124;c&#96;d)" in readme
    assert publish.publish("laptop", run) == [] and files_of(repo) == after


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "x"), KeyboardInterrupt()], ids=["disk", "ctrl-c"]
)
@pytest.mark.parametrize("at", [1, 2, 4])
def test_what_is_stopped_half_way_is_as_before(tmp_path, monkeypatch, at, error):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"old")
    files = {tmp_path / name: b"new" for name in ("a", "b", "new/d", "c")}
    before, calls, replace = files_of(tmp_path), [], os.replace

    def fail(source, target):
        """The file system gives up, once."""
        calls.append(target)
        if len(calls) == at:
            raise error
        replace(source, target)

    monkeypatch.setattr(publish.os, "replace", fail)
    with pytest.raises(type(error)):
        publish._replace_all(files)
    assert len(calls) >= at and files_of(tmp_path) == before
    assert publish._replace_all(files) == list(files) and set(files_of(tmp_path).values()) == {b"new"}


def test_a_full_disk_is_a_sentence(laid_out, monkeypatch):
    repo, run = laid_out
    show(monkeypatch, repo)

    def full(*_):
        """No file can be written."""
        raise OSError(28, "No space left on device", str(repo / "README.md"))

    monkeypatch.setattr(publish, "_replace_all", full)
    with pytest.raises(DffError, match=r"README.md .No space left on device.: nothing was published"):
        publish.publish("laptop", run)


@pytest.mark.parametrize("change, words", [
    (lambda rows: rows[rows.seed == 1], "results of 1 seed have no spread"),
    (lambda rows: rows[rows.method != "DFF"], "lacks rows of the README's table"),
    (lambda rows: rows[(rows.seed == 0) | (rows.method == "copy")], "a mean or spread is no number"),
    (lambda rows: rows[:0], "results of 0 seed"),
])  # fmt: skip
def test_a_table_needs_a_spread_and_all_its_rows(tmp_path, change, words):
    change(pd.read_csv(FIGURES / "results" / "07_by_offset.csv")).to_csv(tmp_path / "07_by_offset.csv", index=False)
    with pytest.raises(DffError, match=words):
        publish.with_results(publish.README.read_text(encoding="utf-8"), tmp_path)


def test_the_ledger_in_the_repository_is_made_of_its_result_files(tmp_path):
    shown = (FIGURES / "claims.md").read_text(encoding="utf-8")
    assert write_ledger(FIGURES / "results", tmp_path / "claims.md", "laptop").read_text(encoding="utf-8") == shown


def test_the_table_of_speed_names_every_row_and_its_ratio():
    made = [
        ("decode", "frame", None, 1.0, "ms"),
        ("lraspp_mobilenet_v3_large", "frame", None, 50.0, "ms"),
    ]
    parts = ("image", "N_feat", "remember", "F", "W", "N_task", "N_task, coarse", "overlay", "write", "non-key online")
    for flow, ms in (("FlowNet", 50.0), ("FlowNet Half", 25.0)):
        made += [(flow, part, 10, 1.0, "ms") for part in parts] + [
            (flow, "key", 10, 400.0, "ms"),
            (flow, "non-key", 10, ms, "ms"),
        ]
        made += [(flow, "fps", n, 2.0 * n, "fps") for n in (1, 10)]
        made += [
            (flow, f"speedup_{kind}", n, n * share, "x")
            for kind, share in (("measured", 1.0), ("predicted", 1.1))
            for n in (1, 10)
        ]
    kinds = ("copy", "warp", "grid_sample", "warp, both ways", "grid_sample, both ways")
    made += [("warp (1, 8, 6, 9)", kind, None, 1.0, "ms") for kind in kinds]
    table = pd.DataFrame(made, columns=["method", "metric", "interval", "value", "unit"]).assign(
        dataset="bikes at 512x256", device="cpu, 2 threads"
    )
    lines = publish.speed_table(table).splitlines()
    assert lines[2] == "| ResNet-101 on every frame | - | - | 2.0 | 1.0 | - |"
    assert lines[4] == "| ResNet-101 + FlowNet Half | 25.0 | 0.062 | 20.0 | 10.0 | 11.0 |"
    assert lines[5] == "| `lraspp_mobilenet_v3_large` on every frame, network only | 50.0 | - | 20.0 | - | - |"
    assert "bikes at 512x256" in lines[-1] and "cpu, 2 threads" in lines[-1]
