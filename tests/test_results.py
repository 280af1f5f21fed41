"""Result files are read whole or refused with a sentence, and nothing in them comes alive on a page."""

import random
import shutil

import pandas as pd
import pytest

from dfflib.errors import DffError
from dfflib.paths import FIGURES, PUBLISHED
from dfflib.results import COLUMNS, in_markdown, read_results
from dfflib.workbook import claims, pages, publish, published
from dfflib.workbook.notebooks import read_notebook
from dfflib.workbook.reproduce import _outcome_before, _read_state

RESULTS = FIGURES / "results"
HOSTILE = "shapes/<img src=x onerror=alert(1)> | `b` [c](javascript:d) $e$"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes, cells or rows that are cut, changed, moved or put in."""
    alien = [b'"', b",", b"\n", b"\0", b"\xff", b"nan", b"inf", b"1e999", b"<b>", b"9" * 30, b"{", b"[]", b"null"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        rows = data.split(b"\n")
        data = rng.choice([
            data[:i], data[:i] + data[j:], data[:i] + rng.choice(alien) + data[i:], data[:j] + data[i:],
            data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :], b"\n".join(rng.sample(rows, len(rows))),
        ])  # fmt: skip
    return data


def test_every_shipped_file_is_read_as_pandas_reads_it():
    for path in RESULTS.glob("*.csv"):
        pd.testing.assert_frame_equal(read_results(path), pd.read_csv(path))


@pytest.mark.parametrize("column, cell, words", [
    ("value", "fast", "row 2: value is 'fast', which is no number"), ("value", "inf", "which is no number"),
    ("value", "1e999", "which is not finite"), ("seed", "-1", "seed is '-1', which is no whole number"),
    ("interval", "100000000000", "no whole number in range"), ("offset", "1.5", "no whole number"),
    ("metric", " ", "metric is ' ', where something must be named"), ("dataset", "a\0b", "which is no plain text"),
    ("value", "9187", "row 2: 9187 % is no share"),
])  # fmt: skip
def test_a_bad_cell_is_named(tmp_path, column, cell, words):
    rows = pd.read_csv(RESULTS / "07_by_offset.csv", dtype=str)[:3]
    rows.loc[0, column] = cell
    rows.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DffError) as refused:
        read_results(tmp_path / "a.csv")
    assert words in str(refused.value) and "a.csv is no file of results" in str(refused.value)


def test_mutated_results_are_right_or_refused(tmp_path):
    rng, readme = random.Random(0), publish.README.read_text(encoding="utf-8")
    (tmp_path / "results").mkdir()
    for n in range(120):
        name = ("08_methods.csv", "10_bench.csv", "08_runtime.csv", "08_flops.csv")[n % 4]
        path = tmp_path / "results" / name
        path.write_bytes(mutated(b"\n".join((RESULTS / name).read_bytes().split(b"\n")[:100]), rng))
        assert "<b>" not in pages.index_page(tmp_path, "smoke", [])
        try:
            assert list(read_results(path).columns) == COLUMNS
            publish.with_results(readme, tmp_path / "results")
            claims.ledger_page(claims.ledger(tmp_path / "results"))
        except DffError as error:
            assert "\n" not in str(error)
        path.unlink()


def test_mutated_published_numbers_are_right_or_refused(tmp_path, monkeypatch):
    rng, whole = random.Random(0), (PUBLISHED / "deep_feature_flow.csv").read_bytes()
    monkeypatch.setattr(published, "PUBLISHED", tmp_path)
    try:
        for _ in range(60):
            (tmp_path / "deep_feature_flow.csv").write_bytes(mutated(whole, rng))
            published._read_published.cache_clear()
            try:
                assert claims.claims()
            except DffError as error:
                assert "\n" not in str(error)
    finally:
        published._read_published.cache_clear()


def test_mutated_states_are_right_or_forgotten_and_mutated_notebooks_have_a_name(tmp_path):
    rng, state = random.Random(0), tmp_path / "state" / "00_a.json"
    whole = b'{"key": "a", "seconds": 1.5, "parameters": {"profile": "smoke"}, "outputs": ["figures/00_a.png"]}'
    book = b'{"cells": [{"cell_type": "markdown", "id": "a", "metadata": {"tags": []}, "source": ["# A"]}], "metadata": {}, '
    book += b'"nbformat": 4, "nbformat_minor": 5}'
    state.parent.mkdir()
    for _ in range(200):
        state.write_bytes(mutated(whole, rng))
        (tmp_path / "00_a.ipynb").write_bytes(mutated(book, rng))
        assert isinstance(_read_state(state), dict)
        assert pages.index_page(tmp_path, "smoke", [_outcome_before(tmp_path / "00_a.ipynb", tmp_path)])
        try:
            read_notebook(tmp_path / "00_a.ipynb")
        except DffError as error:
            assert "is not a readable notebook" in str(error)


def test_nothing_in_a_result_file_comes_alive_on_a_page(tmp_path):
    """As notebook 08 shows it: the ledger as Markdown, the page as nbconvert makes it."""
    import nbformat

    folder = tmp_path / "results"
    shutil.copytree(RESULTS, folder)
    for path in folder.glob("08_*.csv"):
        rows = pd.read_csv(path)
        rows.assign(dataset=HOSTILE, device=HOSTILE).to_csv(path, index=False)
    page = claims.ledger_page(claims.ledger(folder))
    assert "shapes/&#60;img src" in page and "<" not in page
    assert {line.count("|") for line in page.splitlines() if line.startswith("|")} == {9}
    for files, table in publish.TABLES.values():
        assert "<" not in table(*(read_results(RESULTS / file).assign(device=HOSTILE) for file in files))
    new = nbformat.v4
    data = new.output_from_msg({"header": {"msg_type": "display_data"},
                                "content": {"data": {"text/markdown": page}, "metadata": {}}})  # fmt: skip
    book = new.new_notebook(
        cells=[new.new_code_cell("show()", outputs=[data])], metadata={"title": "</title><img src=x>"}
    )
    nbformat.write(book, tmp_path / "08.ipynb")
    shown = pages.write_page(tmp_path / "08.ipynb", tmp_path / "08.html", "08").read_text(encoding="utf-8")
    assert "<img" not in shown and 'javascript:d"' not in shown and "&lt;img src=x onerror" in shown
    index = pages.index_page(tmp_path, "smoke", [])
    assert "<img" not in index and "&lt;img" in index


def test_in_markdown_is_plain_text():
    assert in_markdown("AMD EPYC, 2 threads") == "AMD EPYC, 2 threads"
    assert in_markdown("a|b\n`c` <d>") == "a&#124;b &#96;c&#96; &#60;d&#62;"
