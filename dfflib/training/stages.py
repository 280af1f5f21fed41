"""What each training stage starts from, what it learns, and from which loss.

=================  ==========================================  ==========================================  =====================
stage              starts from                                 learns                                      loss
=================  ==========================================  ==========================================  =====================
``keyframe``       nothing                                     N_feat, N_task                              the task, on I_k
``frame``          N of ``keyframe``                           N_feat, N_task (the paper's *Frame*, trained   the task, on I_i
                                                               as long as those below)
``flow_pretrain``  nothing                                     F                                           F: end-point error
``flow_detached``  N of ``keyframe``, F of ``flow_pretrain``   F, S (N frozen: the paper's *fix N*)        the task, on I_i
``joint``          both, or N and the detached F               N_feat, N_task, F, S (the paper's *DFF*)    the task, on I_i
``fix_flow``       N of ``keyframe``, F of ``flow_pretrain``   N_feat, N_task (the paper's *fix F*)        the task, on I_i
``dis``            N of ``keyframe``                           N_feat, N_task, through DIS flow (ours)     the task, on I_i
=================  ==========================================  ==========================================  =====================

What a joint stage starts from is a recipe's choice (`dfflib.training.recipes`). *Separate* in the paper's Table 3 is
``keyframe`` and ``flow_pretrain`` put together, without any further training.
"""

from typing import Any

from torch import Tensor

from dfflib.data.pairs import Batch
from dfflib.flow import DISFlow, multiscale_loss
from dfflib.models.dff import DeepFeatureFlow

STAGES = ("keyframe", "flow_pretrain", "flow_detached", "joint", "frame", "fix_flow", "dis")
PARTS = {
    "keyframe": ("feature_net.", "task_net."),
    "frame": ("feature_net.", "task_net."),
    "flow_pretrain": ("flow_source.net.",),
    "flow_detached": ("flow_source.",),
    "fix_flow": ("feature_net.", "task_net."),
    "dis": ("feature_net.", "task_net."),
}
"""Parts of the model that a stage's checkpoint holds; all of it for ``joint``."""

PEAK_LR = {
    "keyframe": 2e-3, "frame": 2e-4, "flow_pretrain": 8e-4, "flow_detached": 2e-4, "joint": 2e-4, "fix_flow": 2e-4,
    "dis": 2e-4,
}  # fmt: skip


def for_stage(model: DeepFeatureFlow, stage: str, rival: tuple[str, int] = ("fast", 1)) -> DeepFeatureFlow:
    """The model as a stage uses it: with DIS, of some preset and input stride, in the place of the flow network for ``dis``."""
    return model.with_flow(DISFlow(*rival)) if stage == "dis" else model


def learning_parameters(model: DeepFeatureFlow, stage: str) -> list[Tensor]:
    """The parameters that a stage trains; all others are frozen."""
    parts = {
        "flow_pretrain": lambda: (model.flow_source.net,),
        "flow_detached": lambda: (model.flow_source,),
        "joint": lambda: (model,),
    }.get(stage, lambda: (model.feature_net, model.task_net))()
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    return [p for p in model.parameters() if p.requires_grad]


def set_training_mode(model: DeepFeatureFlow, stage: str) -> None:
    """Batch norm gathers statistics in the key-frame stage only; afterwards it uses those stored, as the authors do."""
    model.eval()
    if stage == "keyframe":
        model.feature_net.train()


def stage_scores(model: DeepFeatureFlow, stage: str, batch: Batch) -> Any:
    """The task's scores that a stage is judged by: of the current frame, by itself (keyframe, frame) or from the key frame."""
    if stage in ("keyframe", "frame"):
        return model.per_frame(batch.current)
    return model(batch.key, batch.current, batch.is_key)


def stage_loss(model: DeepFeatureFlow, stage: str, batch: Batch) -> Tensor:
    """The loss of a stage, see the table at the top of this module."""
    if stage == "flow_pretrain":
        assert batch.flow is not None, "batches of flow pre-training have a known flow"
        return multiscale_loss(model.flow_levels(batch.key, batch.current), batch.flow, batch.valid)
    return model.task.loss(stage_scores(model, stage, batch), batch)
