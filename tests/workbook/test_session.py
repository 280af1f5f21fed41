"""A notebook's run: seeded, in a folder of its own, with models and figures at hand."""

import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from dfflib import paths, profiles
from dfflib.errors import DffError
from dfflib.models import checkpoints
from dfflib.workbook import session


def test_begin_seeds_everything_and_makes_the_folder(tmp_path, capsys):
    def draws(seed):
        run = session.begin("smoke", seed, str(tmp_path / "new"))
        return run, (random.random(), np.random.rand(), torch.rand(1).item())

    run, first = draws(3)
    assert draws(3)[1] == first and all(a != b for a, b in zip(draws(4)[1], first))
    assert run.profile is profiles.get("smoke") and run.seed == 3 and run.device in ("cpu", "cuda")
    assert run.folder == (tmp_path / "new").resolve() and run.folder.is_dir()
    out = capsys.readouterr().out
    assert "smoke" in out and torch.__version__ in out


def test_begin_refuses_an_unknown_profile_and_makes_no_folder(tmp_path):
    with pytest.raises(DffError):
        session.begin("huge", 0, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_model_is_what_its_stages_have_trained(tmp_path):
    run = session.begin("smoke", 0, str(tmp_path))
    assert run.checkpoint("joint", recipe="shapes") == paths.CHECKPOINTS / "shapes_joint_s0.safetensors"
    model = run.model("keyframe", "flow_pretrain", recipe="shapes")
    assert not model.training
    for stage in ("keyframe", "flow_pretrain"):
        trained = checkpoints.load_weights(run.checkpoint(stage, recipe="shapes"))
        assert trained and all(torch.equal(model.state_dict()[name], value) for name, value in trained.items())


def test_figures_lie_in_the_folder_of_the_run(tmp_path):
    run = session.begin("smoke", 0, str(tmp_path))
    fig = plt.figure()
    assert (
        run.save(fig, "01_mine") == run.folder / "figures" / "01_mine.png" and run.with_seed(1).save(fig, "x").is_file()
    )
    plt.close(fig)
