"""One run of one stage: its steps, its validation, and the state from which a stopped run continues."""

import hashlib
import io
import json
import math
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from lightning.fabric import Fabric, seed_everything
from torch import Tensor
from tqdm.auto import tqdm

from dfflib import machine, profiles
from dfflib.data.pairs import Steps
from dfflib.errors import DffError
from dfflib.flow import end_point_error
from dfflib.inference.preparation import keep_memory
from dfflib.locks import lock_stage
from dfflib.models import checkpoints, headers
from dfflib.models.build import build, task_of
from dfflib.models.dff import image_size
from dfflib.paths import write_atomically
from dfflib.stopping import deferred_signals
from dfflib.training import recipes
from dfflib.training.recipes import checkpoint_name
from dfflib.training.stages import (
    PARTS,
    for_stage,
    learning_parameters,
    set_training_mode,
    stage_loss,
    stage_scores,
)
from dfflib.warp import resize_flow

SAVE_EVERY, VALIDATE_EVERY, LOG_EVERY = 100, 100, 10  # steps
LOG_COLUMNS = ["step", "loss", "lr", "metric", "seconds"]
VALIDATION_BATCHES = 4
WORTH_WORKERS = 100  # steps; a shorter run ends before a process has started


@dataclass(frozen=True)
class Settings:
    """Everything a training run depends on; its digest names the run's folder."""

    stage: str
    seed: int
    steps: int
    batch: int
    crop: tuple[int, int]
    short_side: int
    max_interval: int
    start: tuple[str, ...]  # digests of the checkpoints it starts from
    recipe: str

    def digest(self) -> str:
        """Ten hexadecimal digits."""
        values = asdict(self)
        recipe = recipes.get(values.pop("recipe"))
        extra = [] if recipe.name == "threshold" else [recipe.name, recipe.about]  # older checkpoints know no recipes
        text = json.dumps([values, recipe.peak(self.stage), headers.flat(recipe.model), *extra], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Trained:
    """A finished training run: its checkpoint, its log as a table (step, loss, lr, metric, seconds), and one sentence."""

    checkpoint: Path
    log: pd.DataFrame
    summary: str

    @property
    def digest(self) -> str:
        """SHA-256 of the weights in the form in which they ship, as ``data/checkpoints/README.md`` lists it."""
        return checkpoints.as_shipped(self.checkpoint)[0]


class _Trainer:
    """One run of one stage."""

    def __init__(self, settings: Settings, profile: profiles.Profile, folder: Path, start: list[Path], fresh: bool):
        self.settings, self.profile, self.start, self.fresh = settings, profile, start, fresh
        self.recipe = recipes.get(settings.recipe)
        self.folder = folder
        self.result = folder / "checkpoints" / checkpoint_name(settings.stage, settings.seed, settings.recipe)
        self.log_file = self.result.with_suffix(".csv")
        self.state_file = folder / "train" / f"{self.result.stem}_{settings.digest()}.ckpt"

    def run(self, progress: bool) -> Trained:
        """Train, or return what a finished run of the same settings left."""
        if not self._is_wanted():
            return self._trained("was trained before with the same settings")
        with lock_stage(self.folder, self.result.stem):
            if not self._is_wanted():  # another process has finished it meanwhile
                return self._trained("was trained before with the same settings")
            replaces = self._replaces()
            if self.fresh:
                self.state_file.unlink(missing_ok=True)
            keep_memory()
            seed_everything(self.settings.seed, verbose=False)
            torch.use_deterministic_algorithms(True, warn_only=True)
            try:
                self._prepare()
                self._train(progress)
            finally:
                torch.use_deterministic_algorithms(False)
            return self._trained(f"trained for {self.settings.steps} steps{replaces}")

    def is_finished(self) -> bool:
        """Is the result of a run of the same settings there, with its log? One that is damaged is not: it is trained again."""
        return self._facts().get("settings") == self.settings.digest() and self._log() is not None

    def _is_wanted(self) -> bool:
        """A state beside a finished result is of a run that was to train it afresh."""
        return self.fresh or self.state_file.is_file() or not self.is_finished()

    def _facts(self) -> dict:
        """How the result that is there was trained; empty if there is none, or none of ours."""
        try:
            facts = checkpoints.describe(self.result)[1]
            return facts if isinstance(facts, dict) else {}
        except DffError:
            return {}

    def _log(self) -> pd.DataFrame | None:
        """The log of the result; None if it is missing or damaged."""
        try:
            log = pd.read_csv(self.log_file).astype(dict.fromkeys(LOG_COLUMNS, float)).astype({"step": int})
        except (OSError, ValueError, LookupError):  # pandas knows many ways to say that a file is no table
            return None
        whole = list(log.columns) == LOG_COLUMNS and log["step"].is_monotonic_increasing
        return log if whole and len(log) and log["step"].iloc[-1] == self.settings.steps else None

    def _replaces(self) -> str:
        """Words on the result that this run replaces; a longer one only if that is asked for."""
        facts, asked = self._facts(), self.settings.steps
        steps = facts.get("steps")
        if not isinstance(steps, int) or facts.get("settings") == self.settings.digest():
            return ""
        if steps > asked and not self.fresh:
            raise DffError(
                f"{self.result} was trained for {steps} steps, and this run of {asked} would replace it: add --fresh if it "
                f"shall, or name another folder with --out-dir."
            )
        return f", in place of a result of other settings and {steps} steps"

    def _trained(self, how: str) -> Trained:
        log = self._log()
        if log is None:
            raise DffError(f"{self.log_file} was changed while this stage was trained: train it again.")
        metric, score = log["metric"].dropna(), f"validation {task_of(self.recipe.model).unit}"
        unit = "px end-point error" if self.settings.stage == "flow_pretrain" else score
        last = f", {metric.iloc[-1]:.3f} {unit}" if len(metric) else ""
        return Trained(self.result, log, f"{self.settings.stage} {how}{last}: {self.result}")

    def _prepare(self) -> None:
        settings = self.settings
        self.fabric = Fabric(accelerator="auto", devices=1)
        self.fabric.launch()
        model = build(**self.recipe.model).to(memory_format=torch.channels_last)
        for path in self.start:
            checkpoints.load_into(model, path)
        self.model = model = for_stage(model, settings.stage, self.recipe.rival)
        self.learning = learning_parameters(model, settings.stage)
        optimizer = torch.optim.AdamW(self.learning, lr=self.recipe.peak(settings.stage), weight_decay=1e-4)
        self.wrapped, self.optimizer = self.fabric.setup(model, optimizer)
        for method in ("per_frame", "flow_levels"):
            self.wrapped.mark_forward_method(method)
        self.batches = {
            split: self.recipe.batches(settings.stage, split, self.profile, self.folder) for split in ("train", "val")
        }
        self.step, self.between_steps = 0, True
        self.rows: list[dict[str, float | None]] = []
        if self.state_file.is_file():
            self._resume()

    def _resume(self) -> None:
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            if state.pop("digest", "") != _digest(state):
                raise ValueError("its checksum is wrong")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.rows = state["step"], state["rows"]
        except Exception as error:  # whatever a damaged file makes torch raise
            why = error if type(error) is ValueError else type(error).__name__
            raise DffError(
                f"{self.state_file} cannot be continued from ({why}): it is damaged or of another version, so start this "
                f"stage again with --fresh."
            ) from error

    def _train(self, progress: bool) -> None:
        settings, began = self.settings, time.perf_counter() - (self.rows[-1]["seconds"] or 0 if self.rows else 0)
        bar = tqdm(
            total=settings.steps, initial=self.step, desc=f"{settings.stage} s{settings.seed}", disable=not progress,
            leave=False, mininterval=1.0,
        )  # fmt: skip
        numbers = range(self.step, settings.steps)
        many = self.recipe.workers and len(numbers) >= WORTH_WORKERS
        processes = min(8, max(1, torch.get_num_threads() - 1)) if many else 0
        steps = Steps(self.batches["train"], settings.batch, settings.seed)
        with bar, closing(steps.upcoming(numbers, processes)) as self.coming:
            try:
                with deferred_signals() as asked:  # half a step has changed weights or batch-norm statistics
                    while self.step < settings.steps and not asked():
                        self._one_logged_step(bar, began)
                    if self.step == settings.steps:
                        self._save_result(time.perf_counter() - began)
            except KeyboardInterrupt:
                if self.between_steps:  # else this state is neither one step's nor the next's: the saved one is good
                    with deferred_signals():
                        self._save_state()
                raise

    def _one_logged_step(self, bar: tqdm, began: float) -> None:
        loss, lr = self._one_step()
        last = self.step == self.settings.steps
        if self.step % LOG_EVERY == 0 or last:
            metric = self._validate() if self.step % VALIDATE_EVERY == 0 or last else None
            seconds = time.perf_counter() - began
            self.rows.append(dict(step=self.step, loss=loss, lr=lr, metric=metric, seconds=seconds))
        self.between_steps = True
        if self.step % SAVE_EVERY == 0:
            self._save_state()
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def _one_step(self) -> tuple[float, float]:
        settings, self.between_steps = self.settings, False
        set_training_mode(self.model, settings.stage)
        lr = learning_rate(self.step, settings.steps, self.recipe.peak(settings.stage))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = next(self.coming).to(self.fabric.device)
        loss = stage_loss(self.wrapped, settings.stage, batch)
        self._require_finite("loss", loss, lr)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=1.0, error_if_nonfinite=False)
        self._require_finite("gradient", cast(Tensor, norm), lr)  # which is None only where values are clipped
        self.optimizer.step()
        self.step += 1
        return loss.item(), lr

    def _require_finite(self, what: str, value: Tensor, lr: float) -> None:
        """Stop before a value that is no number reaches the weights."""
        if math.isfinite(value.item()):
            return
        kept = f"; {self.state_file} holds the last good state" if self.state_file.is_file() else ""
        raise DffError(
            f"the {what} of stage {self.settings.stage} became {value.item()} at step {self.step + 1} (learning rate "
            f"{lr:.2g}): lower the learning rate or look for broken input{kept}."
        )

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean end-point error (flow_pretrain) or the task's score over fixed batches of the validation split."""
        settings, task = self.settings, self.model.task
        self.model.eval()
        errors, counts = [], task.counts()
        for n in range(VALIDATION_BATCHES):
            batch = self.batches["val"].batch(settings.batch, seed=10_000, step=n).to(self.fabric.device)
            if settings.stage == "flow_pretrain":
                assert batch.flow is not None, "batches of flow pre-training have a known flow"
                flow = resize_flow(self.model.flow_levels(batch.key, batch.current)[-1], image_size(batch.flow))
                errors.append(end_point_error(flow, batch.flow, batch.valid).item())
            else:
                results = task.results(stage_scores(self.model, settings.stage, batch))
                counts.update(results, task.ground_truths(batch))
        return sum(errors) / len(errors) if errors else counts.score

    def _save_state(self) -> None:
        state = dict(
            model=self.model.state_dict(), optimizer=self.optimizer.state_dict(), step=self.step, rows=self.rows
        )
        file = io.BytesIO()  # of a full disk torch says nothing that a user understands
        torch.save({**state, "digest": _digest(state)}, file)
        write_atomically(self.state_file, file.getvalue())

    def _save_result(self, seconds: float) -> None:
        settings = self.settings
        write_atomically(self.log_file, pd.DataFrame(self.rows).to_csv(index=False, float_format="%.6g"))
        checkpoints.save_checkpoint(
            self.result, self.model, self.recipe.model, settings=settings.digest(), stage=settings.stage, seed=settings.seed,
            steps=settings.steps, batch=settings.batch, crop=settings.crop, short_side=settings.short_side,
            data=self.recipe.about,
            device=machine.describe_device(), torch=torch.__version__, seconds=round(seconds, 1),
            metric=self.rows[-1]["metric"], parts=PARTS.get(settings.stage, ("",)),
        )  # fmt: skip
        self.state_file.unlink(missing_ok=True)
        self.between_steps = False  # nothing is left to save


def _digest(state: dict) -> str:
    """Of all that a run continues from."""
    numbers = state["optimizer"]["state"]
    tensors = {f"optimizer.{n}.{name}": tensor for n, held in numbers.items() for name, tensor in held.items()}
    rest = [state["optimizer"]["param_groups"], state["step"], state["rows"], checkpoints.tensor_digest(tensors)]
    return hashlib.sha256((json.dumps(rest) + checkpoints.tensor_digest(state["model"])).encode()).hexdigest()


def learning_rate(step: int, steps: int, peak: float, warm_up: float = 0.05) -> float:
    """Linear warm-up over the first twentieth of the steps, then a cosine to zero; a function of the step alone."""
    warm = max(1, round(steps * warm_up))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
