"""Evaluation `lm_eval`: tasks of EleutherAI's harness (github.com/EleutherAI/lm-evaluation-harness), by name.

The harness is an extra and is imported only here. It scores the model object as it is in this process, so the
numbers belong to exactly these weights; its own data comes from the hub. Task code of others is never run:
tasks that need `trust_remote_code` fail with their own message.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alpaca.config import LmEvalConfig
from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER, Scores
from alpaca.modeling.attention import plain_attention
from alpaca.training.precision import Compute

SECTION = "evaluation.lm_eval"
INSTALL = "pip install 'alpaca-ablations[lm-eval]'"
PREFIX = "eval/lm_eval/"


def check_harness(settings: LmEvalConfig) -> None:
    """What can be said before a model is there.

    Raises:
        UserError: the harness is not installed, or it does not know a task.
    """
    _require()
    _known(settings)


def lm_eval(model: Any, tokenizer: PreTrainedTokenizerBase, settings: LmEvalConfig, compute: Compute) -> Scores:
    """Run the tasks on `model`; metrics are `eval/lm_eval/<task>/<metric>`, with `_stderr` where the task has one.

    Raises:
        UserError: see `check_harness`.
        RunFailed: a task could not be run, as without network for its data.
    """
    _require()
    manager = _known(settings)
    with _quiet():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    with plain_attention(model) as plain, _quiet():
        try:
            inner = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
            wrapped = HFLM(pretrained=inner, tokenizer=tokenizer, batch_size=settings.batch_size)
            with compute.autocast():
                found: Any = simple_evaluate(
                    model=wrapped,
                    tasks=list(settings.tasks),
                    num_fewshot=settings.num_fewshot,
                    limit=settings.limit,
                    task_manager=manager,
                    log_samples=False,
                    bootstrap_iters=1000,  # also switches the closed-form standard errors on
                )
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise RunFailed(
                f"{SECTION}.tasks={','.join(settings.tasks)}: the harness failed ({type(error).__name__}: "
                f"{reason[:200]}); its tasks fetch their data from the hub"
            ) from error
    ways = directions(found["results"], found.get("higher_is_better") or {})
    return Scores(_metrics(found["results"]), [], ways)


def _metrics(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`{"acc,none": 0.5, "acc_stderr,none": "N/A", "alias": ...}` of each task as flat names and numbers."""
    found: dict[str, float] = {}
    for task, values in results.items():
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and "," in name:
                found[_name(task, name)] = float(value)
    return found


def directions(results: dict[str, dict[str, Any]], higher_is_better: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The direction of each metric as its task declares it (`higher_is_better` in the task's YAML).

    A metric of which the task says nothing is left out: it is not guessed. Standard errors have no direction.
    """
    found: dict[str, str] = {}
    for task, name in ((task, name) for task, values in results.items() for name in values if "," in name):
        metric = name.partition(",")[0]
        higher = higher_is_better.get(task, {}).get(metric)
        if metric.endswith("_stderr"):
            found[_name(task, name)] = NEITHER
        elif isinstance(higher, bool):
            found[_name(task, name)] = HIGHER if higher else LOWER
    return found


def _name(task: str, name: str) -> str:
    metric, _, kind = name.partition(",")
    return f"{PREFIX}{task}/{metric}" + (f"_{kind}" if kind != "none" else "")


def _require() -> None:
    if find_spec("lm_eval") is None:
        raise UserError(f"evaluation=lm_eval: EleutherAI's harness is not installed; {INSTALL}")


def _known(settings: LmEvalConfig) -> Any:
    """The harness's list of tasks, after a look whether all that are wanted are on it."""
    if settings.include_path is not None and not Path(settings.include_path).expanduser().is_dir():
        raise UserError(f"{SECTION}.include_path={settings.include_path}: no such folder; give one with task files")
    with _quiet():
        from lm_eval.tasks import TaskManager

        own = None if settings.include_path is None else str(Path(settings.include_path).expanduser())
        manager = TaskManager(include_path=own)
        known = list(manager.all_tasks)
    for task in settings.tasks:
        if task not in known:
            close = get_close_matches(task, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "see `lm-eval ls tasks`"
            raise UserError(f"{SECTION}.tasks: the harness knows no task {task!r}; {hint}")
    return manager


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness prints and logs a lot, and so does the git it starts; what it raises still comes through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    errors, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
            yield
    finally:
        os.dup2(errors, 2)
        os.close(errors)
        os.close(nothing)
        logging.disable(before)
