"""Write the results of a run: environment.json, result.json and the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from resnets import recipes
from resnets.config import Recipe, dump_json
from resnets.report.run import ENVIRONMENT, write_run_report
from resnets.train.execution_plan import ExecutionPlan
from resnets.train.log.run_log import read_rows
from resnets.train.log.timing import STAGES, stage_summary
from resnets.train.resume import DERIVED, differences
from resnets.train.state import TrainState
from resnets.train.tasks.task import Task
from resnets.utils.errors import within_memory
from resnets.utils.machine import environment
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.wait_policy import WaitPolicyController
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import EncodedCheckpoint, read_checkpoint
from resnets.weights.checkpoint.manager import CheckpointManager

RESULT = "result.json"


def write_environment(
    out: Path, plan: ExecutionPlan, group: ProcessGroup, wait_policy: WaitPolicyController
) -> None:
    """Write environment.json: machine, versions, execution plan, thread wait policy."""
    if group.is_main:
        values = environment.describe(torch.device(plan.device))
        values |= {"device_name": values["device"], **dataclasses.asdict(plan)}
        values |= {"processes": group.world_size, **wait_policy.to_json()}
        dump_json(values, out / ENVIRONMENT)


def _store_postprocess(out: Path, recipe: Recipe, name: str, result: dict[str, Any]) -> None:
    """Store postprocessing fitted on validation in the evaluated checkpoint, unless present."""
    fitted = {key: result[key] for key in ("postprocess", "calibration") if key in result}
    checkpoint = read_checkpoint(find_checkpoint(out))
    if any(checkpoint.meta.get(key) != value for key, value in fitted.items()):
        payload = EncodedCheckpoint(
            checkpoint.tensors, checkpoint.meta | json.loads(json.dumps(fitted))
        )
        CheckpointManager(out, recipe).rewrite(name, payload)


def write_results(
    task: Task,
    out: Path,
    state: TrainState,
    plan: ExecutionPlan,
    group: ProcessGroup,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """Evaluate the final weights on validation and, only here, on test; write result and report."""
    recipe, path = task.recipe, group.broadcast_from_main(lambda: find_checkpoint(out))
    with within_memory(
        "the evaluation of the final weights",
        f"the run is complete but for this; see resnets evaluate {out}",
        plan.device,
    ):
        result = task.evaluate_checkpoint(path, plan, group)
    if not group.is_main:
        return result
    if "postprocess" in result:
        _store_postprocess(out, recipe, path.name, result)
    result["train"] = {
        **state.epoch.means(),
        "examples": state.epoch.count,
        "protocol": f"mean over the last epoch of training, {state.epoch.count:,} draws from "
        f"{task.examples:,} {task.summary.unit}: "
        + ("augmented images, " if task.summary.unit == "images" else "")
        + "changing weights",
        **result.get("train", {}),
    }
    result["seconds"] = state.seconds
    images = state.step * recipe.batch_size
    result["images_per_second"] = images / max(1e-9, state.seconds)
    result["splits"], result["history"] = task.split_report.to_json(), history
    result["model"], result["data"] = recipe.net_name, task.data_name
    result["checkpoint"] = path.name
    result["data_summary"] = task.summary.to_json()
    dump_json(result, out / RESULT)
    rows = read_rows(out)
    write_run_report(
        out,
        recipe,
        result,
        rows,
        stages=STAGES,
        stage_summary=stage_summary(rows),
        changed=_changed_fields(recipe),
        details=task.details,
    )
    return result


def _changed_fields(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return the fields in which `recipe` differs from the built-in recipe of its name.

    Each with both values. A recipe with another name is compared with the defaults. If the model
    differs, only its name is listed.
    """
    is_named = recipe.name in recipes.RECIPES
    base = recipes.recipe(recipe.name) if is_named else Recipe(name=recipe.name)
    changed = differences(recipe, base)
    other_model = "model.name" in changed
    return [
        (name, value, default)
        for name, (value, default) in changed.items()
        if name not in DERIVED
        and (name == "model.name" or not (other_model and name.startswith("model.")))
    ]
