"""The benchmark: it measures what it says, at a size where that takes seconds. No test looks at how long anything took."""

import pandas as pd
import pytest
import torch

from dfflib.data.video import open_video
from dfflib.errors import DffError
from dfflib.evaluation import bench
from dfflib.evaluation.timing import speedup
from dfflib.results import COLUMNS


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    options = dict(
        flows=("FlowNet Half", "DIS, half size"), intervals=(1, 3), frames=7, repeats=1, feature_net="resnet50"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "WARPS", ((1, 8, 6, 9), (2, 4, 5, 5)))
        found = bench.bench(
            (48, 64), 3, "cpu", out_dir=folder, alternatives=bench.ALTERNATIVES[:1], progress=False, **options
        )
    assert list(pd.read_csv(folder / "results" / "bench.csv").columns) == COLUMNS
    assert (folder / "figures" / "bench.png").stat().st_size > 1000
    return found


def test_everything_is_measured(table):
    assert (table["value"] > 0).all() and set(table["unit"]) == {"ms", "fps", "x"}
    found = bench.summary(table)
    assert list(found["parts"].index) == ["FlowNet Half", "DIS, half size"] and found["parts"].notna().all().all()
    assert len(found["pipelines"]) == 4 and found["pipelines"].notna().all().all()
    assert len(found["warp"]) == 2 and len(found["every frame"]) == 1


def test_ratios_are_formed_within_the_run(table):
    found = bench.summary(table)
    for name, times in found["parts"].iterrows():
        rows = found["pipelines"].loc[name]
        assert rows.loc[1, "speedup_measured"] == 1 == rows.loc[1, "speedup_predicted"]
        assert rows.loc[3, "speedup_predicted"] == pytest.approx(speedup(3, times["non-key"] / times["key"]))
        assert rows.loc[3, "speedup_measured"] == pytest.approx(rows.loc[3, "fps"] / rows.loc[1, "fps"])


def test_the_made_video_is_real_and_as_long_as_asked(tmp_path):
    clip = open_video(bench.made_video(tmp_path / "v.mp4", (48, 70), 260))
    assert (len(clip), clip.size) == (260, (48, 70))
    still = clip.frames[0].float() - clip.frames[40].float()
    assert still.abs().mean() > 2  # it moves


@pytest.mark.parametrize("wrong, words", [
    (dict(interval=0), "interval is 0"), (dict(interval=-1), "interval is -1"), (dict(interval=10**11), "only 40 frames"),
    (dict(intervals=(1, 41)), "only 40 frames"), (dict(device="cuda"), "finds no GPU"), (dict(threads=10**9), "threads is"),
    (dict(out_dir=__file__), "cannot be the run folder"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_is(monkeypatch, tmp_path, wrong, words):
    monkeypatch.setattr(bench, "made_video", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DffError, match=words):
        bench.bench(**{"out_dir": tmp_path} | wrong, progress=False)
    assert not list(tmp_path.iterdir())


def test_the_models_are_the_published_ones():
    torch.manual_seed(0)
    assert bench.model("FlowNet", "resnet50").feature_net.channels == 1024
    assert bench.model("DIS, half size", "resnet50").flow_source.input_stride == 2
