"""The files around the library agree with each other, and the repository holds what it promises and no more."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import dfflib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAX_BYTES = 5_000_000
MAX_CHECKPOINT_BYTES = 60_000_000  # all shipped checkpoints together


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    names = [canonicalize_name(one.name) for one in parsed]
    assert len(set(names)) == len(names), "a package is listed twice"
    return dict(zip(names, parsed, strict=True))


RUNTIME = requirements(PROJECT["dependencies"])
DIRECT = RUNTIME | requirements(PROJECT["optional-dependencies"]["dev"])


def conda() -> tuple[list[str], list[str]]:
    """The conda and the pip lines of environment.yml."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (pip,) = [line["pip"] for line in lines if isinstance(line, dict)]
    return [line for line in lines if isinstance(line, str)], pip


def pins() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    found = dict(line.split("==") for line in lines if line)
    assert all(name == canonicalize_name(name) for name in found)
    return found


def committed(pattern: str = "*") -> list[Path]:
    """Files that git tracks, or would track once added; all files where this is no git checkout."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]  # CI may run as another user than the owner
    if (ROOT / ".git").exists():
        command = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
        return [path for name in set(listed.stdout.split("\0")) if name and (path := ROOT / name).is_file()]
    ignored = {".venv", "runs", ".git", "build", "dist", "__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache"}
    return [path for path in ROOT.rglob(pattern) if path.is_file() and ignored.isdisjoint(path.parts)]


def test_environment_agrees_with_pyproject():
    packages, pip = conda()
    options = [line for line in pip if line.startswith("-")]
    listed = requirements([line for line in pip if not line.startswith("-")])
    assert {"-c constraints.txt", "-e ."} == set(options)
    assert listed.keys() == DIRECT.keys()
    for name, wanted in DIRECT.items():
        assert (listed[name].specifier, listed[name].marker) == (wanted.specifier, wanted.marker), name
    (python,) = [Requirement(line) for line in packages if line.startswith("python")]
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("name", ["pyproject.toml", "environment.yml"])
def test_every_package_says_what_it_is_for(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    for package in DIRECT:
        (at,) = [i for i, line in enumerate(lines) if re.match(rf"""\s+(- )?["']?{re.escape(package)}\b[^-]""", line)]
        comment = lines[at].partition(" # ")[2] or lines[at - 1].strip().removeprefix("#")
        assert len(comment.split()) >= 3, f"{name}: {package}"


def test_constraints_pin_every_direct_package_inside_its_range():
    found = pins()
    for name, wanted in DIRECT.items():
        assert name in found, f"{name} is not pinned"
        assert found[name] in wanted.specifier, f"{name}=={found[name]} is outside {wanted}"
    assert not [name for name in found if name.startswith(("nvidia", "cuda", "triton"))], "torch pins these itself"


def test_ranges_reach_down_to_the_torch_of_a_gpu_machine():
    for name, version in {"torch": "2.11.0", "torchvision": "0.26.0"}.items():
        assert version in DIRECT[name].specifier


def test_every_imported_package_is_a_direct_dependency():
    distributions = packages_distributions()
    for path in (ROOT / "dfflib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"dfflib"}:
                owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
                assert owners & RUNTIME.keys(), f"{path.relative_to(ROOT)} imports {top}, which pyproject.toml lacks"


def test_version_and_command():
    assert re.fullmatch(r"\d+\.\d+\.\d+", dfflib.__version__)
    assert dfflib.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["scripts"] == {"dfflib": "dfflib.cli:main"}


@pytest.mark.parametrize(
    "name", ["notebooks", "dfflib", "data", "figures", "tests", "environment.yml", "README.md", "LICENSE"]
)
def test_top_level(name):
    assert (ROOT / name).exists()


def test_citation():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["version"], cited["license"]) == (dfflib.__version__, PROJECT["license"])
    (paper,) = cited["references"]
    assert (paper["title"], paper["year"]) == ("Deep Feature Flow for Video Recognition", 2017)
    assert [author["family-names"] for author in paper["authors"]] == ["Zhu", "Xiong", "Dai", "Yuan", "Wei"]


def test_make_help_prints_every_target():
    rules = re.findall(r"^([A-Za-z][\w-]*)\s*:(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"reproduce", "test", "lab", "help", "format", "lint", "clean"} <= set(rules)
    # Without the variables of the `make test` that may be running these tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    for goal in ([], ["help"]):
        command = ["make", "-C", str(ROOT), *goal]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, encoding="utf-8")
        for rule in rules:
            assert re.search(rf"^  {rule}  +\w", shown.stdout, re.MULTILINE), f"make help leaves out {rule}"


def test_continuous_integration_runs_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail" and lines[1].startswith("cd ") and lines[2:] == ["make test"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]


def test_hooks_use_the_tested_ruff():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (ruff,) = [repo for repo in hooks if "ruff" in repo["repo"]]
    assert ruff["rev"] == f"v{pins()['ruff']}"


def test_notebooks_are_committed_without_outputs():
    notebooks = committed("*.ipynb")
    assert any(path.parent == ROOT / "notebooks" for path in notebooks), "there are no notebooks"
    for path in notebooks:
        for at, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            left = cell.get("outputs") or cell.get("execution_count")
            assert not left, f"{path.relative_to(ROOT)}, cell {at}: clear all outputs before committing"


def test_no_large_files():
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in committed()}
    weights = {name: size for name, size in large.items() if name.startswith("data/checkpoints/")}
    assert sum(weights.values()) <= MAX_CHECKPOINT_BYTES, weights
    assert not {name: size for name, size in large.items() if size > MAX_BYTES and name not in weights}


def test_text_is_utf8_wherever_it_is_read_or_written():
    """PLW1514 sees only what is plainly a path; this sees every call by its name."""
    for path in sorted([*(ROOT / "dfflib").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name, given = getattr(node.func, "attr", getattr(node.func, "id", "")), len(node.args)
                named = any(word.arg in ("encoding", None) for word in node.keywords)
                text = (name == "read_text" and not given) or (name == "write_text" and given < 2)
                if name == "open" and isinstance(node.func, ast.Name):
                    text = given < 2 or "b" not in node.args[1].value
                assert named or not text, f"{path.relative_to(ROOT)}:{node.lineno} leaves the encoding to the locale"


# An installation without a checkout: sdist, wheel, and what a fresh environment makes of it.


def run(*command, **options) -> str:
    """What a command prints; its own words where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    texts = dict(capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment)
    done = subprocess.run([str(word) for word in command], check=False, **texts, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A source distribution, unpacked; it is built from a copy without the files that make it large."""
    if missing := [name for name in ("pip", "setuptools") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"this environment has no {missing[0]}, which builds a package without a network")
    folder = tmp_path_factory.mktemp("packaging")
    for path in committed():
        small = path.suffix not in (".gif", ".safetensors") or path.name == "joint_s0.safetensors"
        if small and path.parent.name != "figures":
            target = folder / "checkout" / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=folder / "checkout")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("dfflib-*/"))


@pytest.fixture(scope="module")
def python(source) -> Path:
    """The interpreter of a fresh environment with dfflib's wheel, and all other packages of this one."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", source.parent, source)
    place = source.parent / "fresh environment"
    venv.create(place, symlinks=os.name != "nt")
    at = sysconfig.get_paths(vars={"base": str(place), "platbase": str(place)})
    others = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    Path(at["purelib"], "others.pth").write_text("\n".join(others), encoding="utf-8")
    python = Path(at["scripts"], Path(sys.executable).name)
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", next(source.parent.glob("*.whl")))
    return python


def test_a_source_distribution_is_the_whole_workbook(source):
    given = source.parent / "checkout"
    names = {path.relative_to(given) for path in given.rglob("*") if path.is_file()}
    left_out = {name for name in names if not (source / name).is_file() and ".egg-info" not in str(name)}
    assert not left_out and len(names) > 100


def test_a_wheel_segments_a_video_from_any_folder(python, tmp_path):
    with av.open(tmp_path / "clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p")
        for shade in range(0, 250, 50):
            picture = np.full((48, 64, 3), shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    said = run(python.with_name("dfflib"), "segment", "clip.mp4", cwd=tmp_path)
    assert "5 frames" in said and (tmp_path / "clip_dff.mp4").stat().st_size > 0


def test_a_wheel_has_its_data_and_says_what_needs_a_checkout(python, tmp_path):
    code = """
import json, sys, dfflib
light = "torch" not in sys.modules
from dfflib import paths
from dfflib.run import Run
from dfflib.training import train
from dfflib.workbook import notebooks, pages, publish, published
said = []
for refused in (lambda: publish.publish("laptop"), notebooks.find_notebooks):
    try:
        refused()
    except dfflib.DffError as error:
        said.append(str(error))
numbers, folder = len(published.published()), paths.run_dir("smoke")
shown = pages.environment().list_templates()
trained = train.is_trained(Run.of("smoke"), "flow_detached")
print(json.dumps([light, dfflib.__file__, numbers, str(folder), said, trained, shown]))
"""
    answer = json.loads(run(python, "-I", "-c", code, cwd=tmp_path))
    light, where, numbers, folder, said, trained, shown = answer
    assert light and Path(where).is_relative_to(python.parents[1]) and numbers > 100 and not trained
    assert shown == ["index.html.j2", "notebook/conf.json", "notebook/index.html.j2", "style.css"]
    assert Path(folder) == (tmp_path / "runs" / "smoke").resolve()
    assert [text.split()[0] for text in said] == ["publish", "reproduce"]
    assert all("needs a checkout" in text and text.endswith(".") for text in said)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "smoke"], "asking trained or wrote something"
