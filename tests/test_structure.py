"""The house: rooms by role, imports that run one way, and the names that others rely on."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dfflib"
ORDER = (
    "_version", "errors", "stopping", "paths", "locks", "limits", "machine", "profiles", "results", "run", "warp", "data",
    "metrics", "flow", "viz", "models", "inference", "training", "evaluation", "workbook", "cli", "__main__",
)  # fmt: skip
"""A module may import from its own room and from those before it."""
STABLE = (
    "dfflib.DeepFeatureFlow", "dfflib.DffError", "dfflib.warp.warp", "dfflib.warp.resize_flow",
    "dfflib.data.shapes.ShapesClip", "dfflib.data.video.open_video", "dfflib.data.video.read_stream",
    "dfflib.flow.DISFlow", "dfflib.flow.FlowSource", "dfflib.viz.flow_to_rgb", "dfflib.evaluation.by_offset",
)  # fmt: skip
VERBS = ("reproduce", "segment", "bench", "train", "train-all", "evaluate", "publish", "data")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """Modules of the library that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative path"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return found & MODULES.keys()


def room_of(module: str) -> str:
    return ([*module.split("."), ""])[1]


def test_every_module_has_a_room_and_every_room_its_place():
    assert {room_of(module) for module in MODULES} - {""} == set(ORDER)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "dfflib"])
def test_imports_run_one_way(module):
    for other in imports_of(MODULES[module]) - {"dfflib"}:
        assert ORDER.index(room_of(other)) <= ORDER.index(room_of(module)), (
            f"{module} imports {other}, which comes later"
        )


def test_no_two_modules_import_each_other():
    """Not even in a room, nor inside functions. A package that hands names on counts for its modules."""
    graph = {name: imports_of(path) - {"dfflib"} for name, path in MODULES.items()}
    done, path = set(), []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)


@pytest.mark.parametrize("name", STABLE)
def test_names_that_others_rely_on(name):
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute).__doc__


def test_the_verbs_of_the_command_and_its_start_without_torch():
    code = (
        "import sys; from dfflib.cli import main; import dfflib.workbook, dfflib.models, dfflib.training, dfflib.data;"
        "print(*main.commands); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert set(done.stdout.split()) >= set(VERBS)


def test_modules_stay_small():
    long = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in long.items() if lines > 400}
