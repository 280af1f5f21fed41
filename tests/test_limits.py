"""What values may be: the same for the command line and for notebooks, and known before anything is loaded."""

import json
import re
import subprocess
import sys

import pytest

from dfflib import limits
from dfflib.data.video import SAMPLE_NAMES
from dfflib.errors import DffError
from dfflib.paths import NOTEBOOKS, ROOT
from dfflib.workbook.notebooks import convert

NO_NUMBER = ["", " ", "x", "²", "٣", "1_0", "0x10", "1.5", "1e3", "nan", "inf", "-inf", "--1", None, True, 1.0, [1]]


@pytest.mark.parametrize("name", [name for name, kind in limits.OPTIONS.items() if kind.kind is int])
def test_whole_numbers_are_read_within_their_range_and_nowhere_else(name):
    kind = limits.OPTIONS[name]
    for good in (kind.low, kind.high):
        assert limits.check(name, good) == limits.check(name, f" +{good}") == good
    for bad in (*NO_NUMBER, kind.low - 1, kind.high + 1, 10**30, f"{10**30}", "9" * 5000, 10**5000, f"{kind.low - 1}"):
        with pytest.raises(DffError, match=f"choose a whole number from {kind.low} to {kind.high}") as refused:
            limits.check(name, bad, f"--{name}")
        assert len(str(refused.value)) < 200 and str(refused.value).startswith(f"--{name} is ")


def test_real_numbers():
    assert (
        limits.check("fps", "29.97") == 29.97 and limits.check("fps", 25) == 25.0 and limits.check("fps", ".5") == 0.5
    )
    for bad in ("", "x", "²", "nan", "inf", "-1", "0", "1e-9", "1e9", "1e999", float("nan"), float("inf"), None, True):
        with pytest.raises(DffError, match=r"fps is .*: choose a number from 1e-05 to 1000.0"):
            limits.check("fps", bad)


def test_sizes():
    assert limits.parse_size("512x256") == (256, 512) == limits.parse_size("512X256")
    for text in ("", "512", "512x", "x256", "31x256", "512*256", "-512x256", "512x256x3", "512²x256", "٥١٢x256", " 512x256",
                 "512x99999", "512x1e3", "x" * 5000):  # fmt: skip
        with pytest.raises(DffError, match="columns x rows, 32 to 8192 pixels each"):
            limits.parse_size(text)


def test_the_clips_are_those_that_there_are():
    assert limits.PARAMETERS["clip_name"].names == SAMPLE_NAMES


def test_every_parameter_of_a_notebook_is_in_the_table_and_its_default_in_range():
    defaults = {}
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                found = re.findall(r"^(\w+): (\w+) = (.*?)  #", "".join(cell["source"]), re.MULTILINE)
                defaults |= {name: (kind, default) for name, kind, default in found}
    assert set(defaults) - {"profile", "out_dir"} == set(limits.PARAMETERS) & set(defaults), "give it a range"
    for name, (kind, default) in defaults.items():
        assert convert(name, default.strip('"'), {"inferred_type_name": kind, "default": default}) is not None


@pytest.mark.parametrize("name, value", [
    ("seed", "-1"), ("seed", str(2**32)), ("interval", "0"), ("interval", "-1"), ("interval", str(10**11)),
    ("interval", "21"), ("shapes_seed", "-1"), ("shapes_seed", str(10**7)), ("scene", "-1"), ("current_frame", "3"),
    ("current_frame", "500"), ("distance", "-1"), ("distance", "10"), ("clip_name", "nope"), ("clip_name", ""),
    ("clip_name", "b\0"), ("seed", "[" * 100_000), ("seed", "9" * 5000), ("interval", "1e400"),
])  # fmt: skip
def test_parameters_of_notebooks_are_checked_with_the_same_words(name, value):
    declared = {"inferred_type_name": "str" if name == "clip_name" else "int", "default": "5"}
    with pytest.raises(DffError, match=f"^parameter '{name}' is .*: (choose|give)") as refused:
        convert(name, value, declared)
    assert len(str(refused.value)) < 250 and "\n" not in str(refused.value)


def test_what_has_no_range_takes_any_value():
    assert convert("colour", "red", {"inferred_type_name": "str", "default": "'blue'"}) == "red"


def test_a_check_loads_nothing_heavy():
    code = "import sys, dfflib.limits, dfflib.paths; print(sorted({'torch', 'numpy', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout == "[]\n", done.stderr
