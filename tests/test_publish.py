"""The README's table is what the result files say, and the shipped checkpoints are what their table says."""

import pandas as pd
import pytest

from dfflib import publish
from dfflib.claims import write_ledger
from dfflib.errors import DffError
from dfflib.paths import FIGURES


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
    lines = publish.results_table(rows(values), interval=2).splitlines()
    assert lines[2] == (
        "| 0 | 100.0 ± 0.0 | 90.0 ± 0.0 | 93.0 ± 0.0 | 96.0 ± 1.0 | 90.0 ± 0.0 | 93.0 ± 0.0 | 96.0 ± 1.0 | +6.0 ± 1.0 |"
    )
    assert lines[4] == (
        "| average | 100.0 ± 0.0 | 85.0 ± 0.0 | 88.0 ± 0.0 | 91.0 ± 1.0 | 85.0 ± 0.0 | 88.0 ± 0.0 | 91.0 ± 1.0 | +6.0 ± 1.0 |"
    )
    assert "over 3 seeds" in lines[-1] and "cpu" in lines[-1]


def test_methods_are_averaged_over_offsets_first_and_over_seeds_then():
    values = {}
    for seed in (0, 1):
        for offset in range(4):
            values[seed, offset, "copy", "miou"] = 80.0 - 10 * offset + 2 * seed
            values[seed, offset, "DFF", "miou"] = 90.0
            values[seed, offset, "DFF", "agreement"] = 10.0
    lines = publish.methods_table(rows(values), intervals=(2, 4)).splitlines()
    assert lines[0] == "| variant | l = 2 | l = 4 | offset 3 alone |"
    assert lines[2:4] == [
        "| DFF | 90.0 ± 0.0 | 90.0 ± 0.0 | 90.0 ± 0.0 |", "| copy | 76.0 ± 1.4 | 66.0 ± 1.4 | 51.0 ± 1.4 |"
    ]  # fmt: skip
    assert "over 2 seeds" in lines[-1]


def test_readme_table_is_generated():
    readme = publish.README.read_text(encoding="utf-8")
    assert publish.with_results(readme) == readme, "run `dfflib publish` again"


def test_checkpoint_table_is_generated():
    assert (publish.CHECKPOINTS / "README.md").read_text(encoding="utf-8") == publish.checkpoint_table(), (
        "run `dfflib publish` again"
    )
    assert {path.stem for path in publish.CHECKPOINTS.glob("*.safetensors")} == set(publish.SHIPPED)


def test_readme_without_markers_is_refused():
    with pytest.raises(DffError, match="lacks the lines"):
        publish.with_results("# no table here")


def test_publish_copies_what_a_run_made(tmp_path, monkeypatch):
    run, repo = tmp_path / "run", tmp_path / "repo"
    (run / "results").mkdir(parents=True)
    (run / "figures").mkdir()
    (run / "results" / "03_x.csv").write_text("a\n1\n", encoding="utf-8")
    (run / "figures" / "00_a.png").write_bytes(b"picture")
    (run / "figures" / "00_unused.png").write_bytes(b"picture")
    repo.mkdir()
    (repo / "README.md").write_text("![a](figures/00_a.png)", encoding="utf-8")
    monkeypatch.setattr(publish, "README", repo / "README.md")
    monkeypatch.setattr(publish, "FIGURES", repo / "figures")
    monkeypatch.setattr(publish, "CHECKPOINTS", repo / "checkpoints")
    written = {path.relative_to(repo).as_posix() for path in publish.publish("laptop", run)}
    assert written == {"figures/results/03_x.csv", "figures/00_a.png", "figures/claims.md"}


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
