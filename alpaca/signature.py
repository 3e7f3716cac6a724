"""The signature: a hash of everything that can change a run's training result, and of nothing else.

Fields marked `affects=training` in the schema enter with their values. Data and weights enter by what
they contain: local and packaged files by the hash of their bytes, hub repositories by commit. Output
paths, devices, micro-batch size, logging and tracker stay out, so the same experiment has the same
signature on any machine. The variant is the signature without `train.seed`: runs of one variant
differ only by seed.
"""

import functools
import hashlib
import json
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from alpaca import paths
from alpaca.config import EVALUATION, GENERATION, TRAINING, Config, DataSourceConfig, GenerationConfig
from alpaca.data import files
from alpaca.data.mix import part_settings
from alpaca.errors import UserError

LENGTH = 10  # hexadecimal digits: a collision among 10,000 runs has a chance of 5e-5
HUB_PREFIX = "hub:"
HUB_TIMEOUT_S = 5
RANDOM = "random"
WATCHED = "eval/watch_rougeL"  # the one metric of train.keep_best that comes from answers
GENERATED = "generated:"  # a data_source.path: the result of the section `generation`, in the folder that follows


def signature(config: Config) -> str:
    """Hash of the training settings, data and weights of `config`.

    Raises:
        UserError: a data file or packaged model that the config names is not there.
    """
    return signature_of(training_settings(config))


def signature_of(settings: dict[str, Any]) -> str:
    """The signature of what `training_settings` gave."""
    return _hash(settings)


def variant(config: Config) -> str:
    """The signature without the seed."""
    return variant_of(training_settings(config))


def variant_of(settings: dict[str, Any]) -> str:
    """The variant of what `training_settings` gave."""
    return _hash({key: value for key, value in settings.items() if key != "train.seed"})


def training_settings(config: Config) -> dict[str, Any]:
    """Dotted key to value of every field that affects training, files replaced by their content."""
    settings = dict(_marked(config))
    if config.train.keep_best is None:
        del settings["train.keep_best"]
    else:  # which model is the result then hangs on when it was measured
        settings["train.eval_every_steps"] = config.train.eval_every_steps
        if (quick := config.evaluation.quick) is not None and config.train.keep_best == WATCHED:
            settings["evaluation.quick"] = [quick.watch_rows, quick.max_new_tokens]
    settings["model.weights"] = weights_content(config.model.weights, config.model.revision)
    if is_generated(config.data_source.path):
        settings["data_source.path"] = GENERATED + _generation_behind(config)
    else:
        settings["data_source.path"] = _data_content(config.data_source)
    return settings


def is_generated(path: Any) -> bool:
    """Whether a `data_source.path` means the data set that the section `generation` makes."""
    return isinstance(path, str) and path.startswith(GENERATED)


def generation_signature(generation: GenerationConfig) -> str:
    """Hash of the settings that change what a generation makes, seeds and input rows by their content.

    Raises:
        UserError: a file that it starts from is not there.
    """
    return _hash(generation_settings(generation))


def generation_settings(generation: GenerationConfig) -> dict[str, Any]:
    """Dotted key to value of every setting that changes the data, nulls filled by rule, files replaced by content."""
    from alpaca.selfinstruct.settings import EVOLVE, SELF_INSTRUCT, input_files, resolved, seeds_file

    filled = resolved(generation)
    settings = dict(_marked(filled, "generation.", GENERATION))
    own = filled.mode == SELF_INSTRUCT
    try:
        settings["generation.seeds"] = file_hash(seeds_file(filled.seeds)) if own else None
    except OSError as error:
        raise UserError(f"generation.seeds={filled.seeds}: {error.strerror}; give a JSONL file of tasks") from None
    settings["generation.path"] = [
        hub_commit("dataset", file.removeprefix(HUB_PREFIX), None)
        if file.startswith(HUB_PREFIX)
        else file_hash(Path(file))
        for file in ([] if own or not filled.path else input_files(filled))
    ]
    if filled.engine in ("local", "vllm"):
        settings["generation.model"] = _named_model_content(filled.model or "")
    if not filled.machine_examples and filled.mode != EVOLVE:
        settings["generation.lag"] = None  # nothing depends on it
    return settings


def _named_model_content(name: str) -> Any:
    """What the model of a local engine is made of: a name in conf/model, or weights."""
    file = paths.conf_dir() / "model" / f"{name}.yaml"
    if "/" in name or not file.is_file():
        return weights_content(name, None)
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [weights_content(described["weights"], described.get("revision")), described.get("architecture")]


def evaluation_settings(config: Config) -> dict[str, Any]:
    """Dotted key to value of every field that affects scores and not training."""
    return dict(_marked(config, "", EVALUATION))


def _generation_behind(config: Config) -> str:
    """The signature of the generation a run trains on: as its folder says, before there is one as the settings say."""
    folder = config.data_source.path.removeprefix(GENERATED)
    if not folder:
        return generation_signature(config.generation)
    try:
        found = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
        if found["status"] != "finished":
            raise ValueError(found["status"])
        return str(found["signature"])
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"data_source.path={GENERATED}{folder}: no finished generation there; give the folder of one"
        ) from None


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; files over 16 MiB are hashed once per path, size and times of change."""
    status = path.stat()
    if status.st_size < 1 << 24:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    identity = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"  # `cp -p` sets mtime back
    memo = paths.cache_dir() / "hashes" / hashlib.sha256(identity.encode()).hexdigest()
    if memo.is_file() and len(known := memo.read_text()) == 64:
        return known
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(digest)
    except OSError:
        pass  # the memo only saves time
    return digest


def _hash(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def _marked(section: Any, prefix: str = "", affects: str = TRAINING) -> Any:
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from _marked(value, f"{prefix}{item.name}.", affects)
        elif item.metadata.get("affects") == affects:
            yield prefix + item.name, value


def weights_content(weights: str, revision: str | None) -> str:
    """What stands for `model.weights` in a signature: hash of files, or hub id and commit."""
    if weights == RANDOM:
        return weights
    if weights.startswith(paths.PACKAGE_PREFIX):
        from alpaca.modeling.embedded import gguf_file

        return file_hash(gguf_file(weights))
    folder = Path(weights).expanduser()
    if folder.is_dir():
        parts = {".json", ".safetensors", ".model", ".txt", ".jinja"}
        kept = sorted(file for file in folder.glob("*") if file.suffix in parts and file.is_file())
        return _hash({file.name: file_hash(file) for file in kept})
    return f"{weights}@{hub_commit('model', weights, revision)}"


def _data_content(source: DataSourceConfig) -> Any:
    """What the rows of a source are made of: hashes of files, the commit of a hub data set, the parts of a mix."""
    if source.mix:
        parts = {name: part_settings(name, source.sources[name]) for name in sorted(source.mix)}
        return {name: {**dict(_marked(part)), "path": _data_content(part)} for name, part in parts.items()}
    path = source.path or ""
    if isinstance(path, str) and path.startswith(HUB_PREFIX):
        return f"{path}@{hub_commit('dataset', path.removeprefix(HUB_PREFIX), source.revision)}"
    if isinstance(path, str) and path.startswith(paths.PACKAGE_PREFIX):
        return file_hash(paths.packaged_file(path, key="data_source.path"))
    found = [_location_hash(location) for location in files.locations(path)]
    return found[0] if len(found) == 1 else found


def _location_hash(location: str) -> str:
    if files.is_url(location):
        return files.url_hash(location)
    try:
        return file_hash(Path(location))
    except OSError as error:
        raise UserError(f"data_source.path={location}: {error.strerror}; make it readable") from error


@functools.cache
def hub_commit(kind: str, name: str, revision: str | None) -> str:
    """Commit that `revision` of a hub repository means now: asked from the hub, else as the local cache has it.

    Without network and cache the revision itself is returned; loading then fails with its own message.
    A hub that cannot be reached is not asked again in this process: the hub library would retry every
    file for half a minute before it looked into the local cache.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    wanted = revision or "main"
    try:
        found = HfApi().repo_info(name, repo_type=kind, revision=wanted, timeout=HUB_TIMEOUT_S).sha
        if found:
            return found
    except HfHubHTTPError:
        pass  # the hub answered: gated or unknown; the loader reports it with the way out
    except Exception:
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
    folder = f"{kind}s--{name.replace('/', '--')}"
    reference = Path(constants.HF_HUB_CACHE) / folder / "refs" / wanted
    return reference.read_text().strip() if reference.is_file() else wanted
