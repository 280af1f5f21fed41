"""The catalogue of published sets: found by name, checked by name, with sentences where they are not."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from dfflib.cli import main
from dfflib.data import catalogue
from dfflib.data.checks import Count, require
from dfflib.errors import DffError
from dfflib.paths import ROOT


def fake(found: int, official: int | None, needed: bool = True) -> list[Count]:
    return [Count("frames (frames/)", found, official, "get frames/ again", needed)]


def test_copies_are_looked_for_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DFFLIB_DATA", str(tmp_path))
    assert catalogue.find("davis") is None
    (tmp_path / "DAVIS").mkdir()
    assert catalogue.find("davis") == tmp_path / "DAVIS"
    monkeypatch.delenv("DFFLIB_DATA")
    assert catalogue.data_folder() == ROOT / "data"


def test_every_set_has_a_folder_a_check_and_a_line_in_the_readme():
    assert catalogue.FOLDERS.keys() == catalogue.CHECKS.keys()
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for name, folder in catalogue.FOLDERS.items():
        assert f"`{name}`" in text and f"{folder}/" in text


@pytest.mark.parametrize("call", [catalogue.find, catalogue.check])
def test_an_unknown_set_is_one_sentence(call):
    with pytest.raises(DffError, match="no data set 'coco': choose one of camvid, davis"):
        call("coco")


def test_a_missing_copy_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("DFFLIB_DATA", str(tmp_path))
    with pytest.raises(
        DffError, match=r"CamVid is missing .a copy of camvid.: put or link one there, or set DFFLIB_DATA"
    ):
        catalogue.check("camvid")


@pytest.mark.parametrize("name", catalogue.FOLDERS)
def test_an_empty_folder_is_no_copy(name, tmp_path):
    with pytest.raises(DffError) as caught:
        catalogue.check(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "counts, code, said",
    [
        (fake(5, 5), 0, "davis is complete."),
        (fake(4, 5), 1, "MISSING; get frames/ again"),
        (fake(0, 5, needed=False), 0, "absent, not needed"),
        (fake(7, None), 0, "7 of         ?  ok"),
    ],
)
def test_the_command_counts_and_says_what_to_do(counts, code, said, monkeypatch, tmp_path):
    monkeypatch.setitem(catalogue.CHECKS, "davis", lambda path: counts)
    done = CliRunner().invoke(main, ["data", "check", "davis", str(tmp_path)])
    assert (done.exit_code, said in done.output) == (code, True), done.output


def test_the_command_on_real_copies(shared_data):
    for name, folder in (("camvid", "CamVid"), ("davis", "DAVIS")):
        done = CliRunner().invoke(main, ["data", "check", name, str(shared_data / folder)])
        assert done.exit_code == 1 and "incomplete" in done.output  # the development copies hold a part only


def test_require_names_what_is_missing(tmp_path):
    assert require(tmp_path, "a folder", "make it") == tmp_path
    with pytest.raises(DffError, match=r"nothing is missing \(a file\): make it\."):
        require(Path("nothing"), "a file", "make it")
