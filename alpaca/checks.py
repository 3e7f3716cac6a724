"""Static checks of a composed config: ranges, impossible pairs, missing values, before anything heavy is imported.

Each failed check is one `UserError` that names the key, its value, the rule and the way out.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from alpaca.config import Config, DataSourceConfig, ParallelismConfig, TemplateConfig
from alpaca.data.columns import MAPPABLE
from alpaca.data.mix import part_settings
from alpaca.errors import UserError
from alpaca.evaluation.judging.settings import check_judge
from alpaca.modeling.identity import refuse_adapter
from alpaca.pairs import check_pairs
from alpaca.selfinstruct.settings import check_generation
from alpaca.signature import RANDOM, WATCHED, is_generated
from alpaca.tracking.wandb_settings import check_tracker

SMALLEST_VOCABULARY = 259  # 256 bytes, <pad>, <s> and </s>


def check(config: Config) -> None:
    """Raise `UserError` for the first setting that cannot work."""
    check_ranges(config)
    _check_model(config)
    _check_data(config)
    _check_template(config.template)
    _check_parallelism(config.parallelism)
    check_pairs(config)
    _check_training(config)
    if is_generated(config.data_source.path):
        check_generation(config.generation)
    if config.evaluation.judge is not None:
        check_judge(config.evaluation.judge)


def check_ranges(config: Config) -> None:
    """The part of `check` that every command needs: the run's name, and each setting's own rule."""
    _check_name(config.name)
    _check_ranges(config)
    check_tracker(config.tracker)


def check_lists(section: Any, prefix: str = "") -> None:
    """Raise `UserError` for a list in a list where the schema has plain values: OmegaConf lets it pass."""
    hints = get_type_hints(type(section))
    for item in fields(section):
        key, value = prefix + item.name, getattr(section, item.name)
        if is_dataclass(value):
            check_lists(value, f"{key}.")
            continue
        plain = any(
            get_args(hint)[:1] in ((int,), (float,), (str,)) for hint in (hints[item.name], *get_args(hints[item.name]))
        )
        if plain and isinstance(value, list) and any(isinstance(entry, (list, dict)) for entry in value):
            raise UserError(f"{key}={value}: a list of plain values, without lists in it, such as {key}=[a,b]")


def _check_name(name: str) -> None:
    if not name.strip() or "/" in name or name.startswith("."):
        raise UserError(f"name={name}: it names a folder under outputs/; give a word without / and without a dot first")


def _check_ranges(config: Config) -> None:
    for key, value, rule in _settings(config):
        if rule["choices"] and value is not None and value not in rule["choices"]:
            raise UserError(f"{key}={value}: choose one of {', '.join(rule['choices'])}")
        if value is None or isinstance(value, (str, list, dict)):
            continue
        if not math.isfinite(value):
            raise UserError(f"{key}={value}: must be a finite number")
        what = rule["help"].rstrip(".").rsplit("; it", 1)[0]
        for name, phrase, holds in (
            ("at_least", "at least", operator.ge),
            ("above", "above", operator.gt),
            ("at_most", "at most", operator.le),
        ):
            if (bound := rule[name]) is not None and not holds(value, bound):
                raise UserError(f"{key}={value}: must be {phrase} {bound:.10g} ({what[0].lower()}{what[1:]})")


def _settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{item.name}.")
        elif item.metadata:
            yield prefix + item.name, value, dict(item.metadata)


def _check_model(config: Config) -> None:
    model = config.model
    if not model.weights:
        raise UserError("model.weights is empty: give a hub id, a folder, package:MODULE/FILE or random")
    if model.weights.startswith(("/", "./", "../", "~")) and not Path(model.weights).expanduser().is_dir():
        raise UserError(f"model.weights={model.weights}: no such folder; give one that holds a model, or a hub id")
    refuse_adapter(model)
    if model.weights == RANDOM and not model.architecture.get("model_type"):
        raise UserError(
            f"model.weights=random: model={model.name} has no architecture.model_type; "
            "choose a model with sizes, such as model=tiny"
        )
    vocabulary = model.architecture.get("vocab_size")
    if model.weights == RANDOM and (not isinstance(vocabulary, int) or vocabulary < SMALLEST_VOCABULARY):
        raise UserError(
            f"model.architecture.vocab_size={vocabulary}: random weights need at least {SMALLEST_VOCABULARY}, "
            "one token for each byte and the special ones"
        )
    longest = model.architecture.get("max_position_embeddings")
    if longest is not None and config.train.max_length > longest:
        raise UserError(
            f"train.max_length={config.train.max_length}: model={model.name} has {longest} positions; "
            f"set train.max_length={longest} or less"
        )


def _check_data(config: Config) -> None:
    source = config.data_source
    if source.mix:
        _check_mix(source)
    elif not source.path:
        raise UserError(
            f"data_source.path is missing: data_source={source.name} reads "
            + ("a data set of yours, data_source.path=hub:OWNER/NAME" if source.name == "hub" else "")
            + ("other sources, data_source.mix={alpaca_52k:3,code_alpaca:1}" if source.name == "mix" else "")
            + ("a file of yours, data_source.path=FILE" if source.name not in ("hub", "mix") else "")
            + "; data_source=seed_tasks needs none"
        )
    elif not isinstance(source.path, str) and not (
        isinstance(source.path, list) and all(isinstance(one, str) for one in source.path)
    ):
        raise UserError(f"data_source.path={source.path}: a path or a list of paths, such as [a.jsonl,b.csv]")
    for field, column in source.columns.items():
        if field not in MAPPABLE:
            raise UserError(
                f"data_source.columns.{field}: no such field; our fields are {', '.join(MAPPABLE)}, written "
                "OURS:THEIRS, as in 'data_source.columns={instruction:prompt,output:response}'"
            )
        if not isinstance(column, str) and not (column is None and field not in ("instruction", "output")):
            raise UserError(f"data_source.columns.{field}={column}: give the name of a column as text")
    for field in ("instruction", "input", "output"):
        least, most = getattr(source.filter, f"min_{field}"), getattr(source.filter, f"max_{field}")
        if least is not None and most is not None and least > most:
            raise UserError(
                f"data_source.filter.min_{field}={least} is above max_{field}={most}: no row could pass; swap them"
            )


def _check_mix(source: DataSourceConfig) -> None:
    if source.path:
        raise UserError(
            f"data_source.path={source.path} with data_source.mix: a mix reads its parts only; "
            "leave out the path, or add it as a part: data_source.sources.NAME.path=FILE data_source.mix.NAME=1"
        )
    for name, share in source.mix.items():
        if not share > 0 or share == float("inf"):
            raise UserError(
                f"data_source.mix.{name}={share}: a share is above 0; leave the source out to use none of it"
            )
        if is_generated(part_settings(name, source.sources[name]).path):
            raise UserError(
                f"data_source.mix.{name}: a mix does not generate; make the data first with python -m alpaca.generate, "
                f"then name its file: data_source.sources.{name}.path=DIR/dataset.json"
            )
    for key in ("revision", "subset", "columns"):
        if getattr(source, key):
            raise UserError(
                f"data_source.{key} with data_source.mix: set it for a part, data_source.sources.NAME.{key}"
            )


def _check_template(template: TemplateConfig) -> None:
    for key, places in (
        ("prompt_with_input", ("{instruction}", "{input}")),
        ("prompt_without_input", ("{instruction}",)),
    ):
        text = getattr(template, key)
        for place in places:
            if place not in text:
                raise UserError(f"template.{key} has no {place}: the prompt must say where it goes")


def _check_parallelism(parallelism: ParallelismConfig) -> None:
    devices = (parallelism.devices or 0) * parallelism.nodes
    if parallelism.sharding == "none" and (devices > 1 or parallelism.nodes > 1):
        raise UserError(
            f"parallelism={parallelism.name} with parallelism.devices={parallelism.devices} and "
            f"nodes={parallelism.nodes}: it uses one device; choose parallelism=ddp or parallelism=fsdp"
        )
    if parallelism.sharding not in ("none", "replicate") and devices == 1:
        raise UserError(
            f"parallelism={parallelism.name} with parallelism.devices=1: there is nothing to shard over; "
            "choose parallelism=single or give two devices or more"
        )
    if parallelism.offload and parallelism.sharding in ("none", "replicate"):
        raise UserError(
            f"parallelism.offload=true with parallelism={parallelism.name}: only split weights are kept in the host's "
            "memory; choose parallelism=fsdp_offload"
        )
    if parallelism.rendezvous is not None and not _is_endpoint(parallelism.rendezvous):
        raise UserError(
            f"parallelism.rendezvous={parallelism.rendezvous}: give HOST:PORT with a port from 1 to 65535, such as "
            "host0:29500"
        )


def _is_endpoint(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdigit() and 0 < int(port) < 65536


def _check_training(config: Config) -> None:
    train, optimizer = config.train, config.optimizer
    if train.resume not in ("auto", "never"):
        folder = Path(train.resume).expanduser()
        if not (folder / "config.yaml").is_file():
            raise UserError(f"train.resume={train.resume}: no run directory; give auto, never, or the folder of a run")
        if config.output_dir and Path(config.output_dir).expanduser().absolute() != folder.absolute():
            raise UserError(
                f"train.resume={train.resume} with output_dir={config.output_dir}: a run goes on in its own folder; "
                "leave out output_dir"
            )
    if train.on_oom != "stop" and config.parallelism.sharding != "none":
        raise UserError(
            f"train.on_oom={train.on_oom} with parallelism={config.parallelism.name}: one rank alone cannot repeat a "
            "step; set train.on_oom=stop, or train.micro_batch_tokens to what fits"
        )
    if train.eval_every_steps is not None and train.eval_rows == 0:
        raise UserError(
            f"train.eval_every_steps={train.eval_every_steps} with train.eval_rows=0: there are no held-out rows; "
            "set train.eval_rows=1 or more"
        )
    if train.micro_batch_tokens is not None and train.micro_batch_tokens < train.max_length:
        raise UserError(
            f"train.micro_batch_tokens={train.micro_batch_tokens}: a micro-batch must hold the longest example, "
            f"train.max_length={train.max_length} tokens; raise the first or lower the second"
        )
    if optimizer.warmup > 1 and optimizer.warmup != int(optimizer.warmup):
        raise UserError(f"optimizer.warmup={optimizer.warmup}: from 1 on it counts steps; give a whole number")
    if train.keep_best is not None and train.eval_every_steps is None:
        raise UserError(
            f"train.keep_best={train.keep_best}: it is measured at every train.eval_every_steps, which is not set; "
            "set train.eval_every_steps to a number of steps"
        )
    if train.keep_best == WATCHED and (config.evaluation.quick is None or not config.evaluation.quick.watch_rows):
        raise UserError(
            f"train.keep_best={train.keep_best}: no answers are watched; choose evaluation=quick with "
            "evaluation.quick.watch_rows=1 or more, or train.keep_best=eval/loss"
        )
    check_evaluation(config)
    _check_evaluation_in_run(config)


def check_evaluation(config: Config) -> None:
    """The chosen evaluations, wherever they are made."""
    chosen, rows = config.evaluation, config.train.eval_rows
    for name in ("quick", "loss"):
        if getattr(chosen, name) is not None and rows == 0:
            raise UserError(
                f"evaluation={name} with train.eval_rows=0: there are no held-out rows to score; "
                "set train.eval_rows=1 or more, or evaluation=none"
            )
    if chosen.loss is not None:
        bounds = chosen.loss.lengths
        if any(bound < 1 for bound in bounds) or sorted(set(bounds)) != bounds:
            raise UserError(
                f"evaluation.loss.lengths={bounds}: bounds in tokens are at least 1 and rise, such as [16,64,256]"
            )
    if (made := chosen.generate) is not None:
        if made.instructions == "file" and not made.path:
            raise UserError(
                "evaluation.generate.instructions=file: which one? set evaluation.generate.path=FILE, or choose "
                "seed_holdout"
            )
        if made.path and made.instructions in ("held_out", "seed_holdout"):
            raise UserError(
                f"evaluation.generate.path={made.path} with instructions={made.instructions}: that set has no file; "
                "set evaluation.generate.instructions=file"
            )
        if made.instructions == "held_out" and rows == 0:
            raise UserError(
                "evaluation.generate.instructions=held_out with train.eval_rows=0: there are no held-out rows; choose "
                "seed_holdout, or set train.eval_rows=1 or more"
            )
    if chosen.lm_eval is not None and not chosen.lm_eval.tasks:
        raise UserError("evaluation.lm_eval.tasks=[]: name at least one task, such as [arc_easy]")
    if chosen.judge is not None:
        from alpaca.evaluation.judging.settings import check_judge

        check_judge(chosen.judge)
    decode = chosen.decode
    if decode.engine == "local" and (decode.model or decode.base_url):
        key = "model" if decode.model else "base_url"
        raise UserError(
            f"evaluation.decode.{key}={getattr(decode, key)} with engine=local: the model in this process answers; set "
            "evaluation.decode.engine=openai or vllm, or leave it out"
        )
    if decode.engine == "vllm" and decode.base_url:
        raise UserError(
            f"evaluation.decode.base_url={decode.base_url} with engine=vllm: it asks no server; set "
            "evaluation.decode.engine=openai"
        )
    if decode.engine == "openai" and not (decode.model and decode.base_url):
        raise UserError(
            "evaluation.decode.engine=openai: set evaluation.decode.base_url to the server that has this model and "
            "evaluation.decode.model to its name there"
        )


def _check_evaluation_in_run(config: Config) -> None:
    """What only the end of a run cannot do."""
    chosen = config.evaluation
    if chosen.decode.engine != "local":
        raise UserError(
            f"evaluation.decode.engine={chosen.decode.engine}: a run ends with answers of the model that it holds; "
            "leave it out, and score the finished run with python -m alpaca.evaluate RUN "
            f"evaluation.decode.engine={chosen.decode.engine}"
        )
    if chosen.lm_eval is not None and config.parallelism.sharding not in ("none", "replicate"):
        raise UserError(
            f"evaluation=lm_eval with parallelism={config.parallelism.name}: the harness needs the whole model on one "
            "device; score the finished run with python -m alpaca.evaluate RUN evaluation=lm_eval"
        )
