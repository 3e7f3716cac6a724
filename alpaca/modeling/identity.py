"""Which base a run starts from: a whole model, the exact version of it, and the name by which others load it.

A hub repository is identified by its commit, a folder by a hash of the files that loading reads. Both are kept
in `data.json`, and the base of an adapter is compared with them whenever it is loaded again. No torch here:
static checks read this.
"""

import functools
import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from alpaca import paths
from alpaca.config import ModelConfig
from alpaca.errors import UserError
from alpaca.signature import RANDOM, file_hash, hub_commit, weights_content

ADAPTER_FILE = "adapter_config.json"
NOT_MERGEABLE = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT")
COMMIT = re.compile(r"[0-9a-f]{40}")


def on_hub(weights: str) -> bool:
    """Whether `model.weights` is a hub id."""
    is_local = weights == RANDOM or weights.startswith((paths.PACKAGE_PREFIX, "/", ".", "~"))
    return not (is_local or Path(weights).is_dir())


def refuse_adapter(config: ModelConfig) -> None:
    """Raise `UserError` if `model.weights` is a local adapter.

    transformers would load its base and put the adapter on it. What is trained then cannot be saved: of such a
    model `save_pretrained` writes the adapter alone, and a second adapter would name the first as its base.
    """
    file = Path(config.weights).expanduser() / ADAPTER_FILE
    if not on_hub(config.weights) and file.is_file():
        raise UserError(adapter_refusal(config.weights, file))


def adapter_refusal(weights: str, file: Path) -> str:
    """Why an adapter is no base, and how to get one; `file` is its `adapter_config.json`."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    why = f"model.weights={weights}: it holds an adapter ({ADAPTER_FILE}), and only a whole model can be trained on"
    run = file.parent.parent
    if (run / "config.yaml").is_file() and (run / "summary.json").is_file():
        export = run / "export"
        first = "take" if export.is_dir() else f"merge it with python -m alpaca.export {run} and set"
        return f"{why}; {first} model.weights={export}"
    if str(settings.get("peft_type", "")).upper() in NOT_MERGEABLE:
        base = settings.get("base_model_name_or_path") or "its base"
        return f"{why}; {settings['peft_type']} cannot be merged into one, so set model.weights={base}"
    return (
        f"{why}; merge it with peft, AutoPeftModelForCausalLM.from_pretrained({weights!r}).merge_and_unload()"
        ".save_pretrained('MERGED'), copy the tokenizer there too and set model.weights=MERGED"
    )


def pinned(config: ModelConfig) -> ModelConfig:
    """The same model with the commit that `revision` means now, if it is on the hub."""
    if not on_hub(config.weights):
        return config
    return replace(config, revision=hub_commit("model", config.weights, config.revision))


def recorded(config: ModelConfig) -> dict[str, str | None]:
    """What `data.json` keeps of a `pinned` base: the commit of a hub repository, the hash of local files."""
    if on_hub(config.weights):
        return {"revision": config.revision, "content_hash": None}
    return {"revision": None, "content_hash": content_hash(config.weights)}


def content_hash(weights: str) -> str | None:
    """SHA-256 of what loading reads of local weights: configuration and safetensors; None for random ones."""
    if weights == RANDOM:
        return None
    if weights.startswith(paths.PACKAGE_PREFIX):
        from alpaca.modeling.embedded import gguf_file

        return file_hash(gguf_file(weights))
    folder = Path(weights).expanduser()
    read = [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    files = {file.name: file_hash(file) for file in read if file.is_file()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def the_same(config: ModelConfig, lineage: dict[str, Any], settings: dict[str, Any], run: Path) -> ModelConfig:
    """The base of the run in `run` as it was trained on: its model section with the commit to load.

    Args:
        config: the run's model section.
        lineage: `lineage.model` of its `data.json`.
        settings: `settings` of its `env.json`, which identify the base where `lineage` of an older version does not.

    Raises:
        UserError: local weights that are not those of the run.
    """
    if config.weights == RANDOM:
        return config
    before, signed = lineage.get("content_hash"), str(settings.get("model.weights") or "")
    if on_hub(config.weights):
        if before or (signed and "@" not in signed):
            raise UserError(_gone(config.weights, run))
        commit = lineage.get("revision") or signed.rpartition("@")[2]
        if COMMIT.fullmatch(commit):
            return replace(config, revision=commit)
        _say_once(f"{run}: the commit of its base {config.weights} was not recorded; what the hub has now is taken")
        return config
    if not config.weights.startswith(paths.PACKAGE_PREFIX) and not Path(config.weights).expanduser().is_dir():
        raise UserError(_gone(config.weights, run))
    if before is None:
        if signed != weights_content(config.weights, config.revision):
            _say_once(f"{run}: the content of its base {config.weights} was not recorded; it is taken as it is now")
    elif before != (now := content_hash(config.weights)):
        raise UserError(
            f"model.weights={config.weights}: its files are not those that the run in {run} was trained on (content "
            f"{before[:12]}, now {str(now)[:12]}); put the old files back, or train again"
        )
    return config


def moved(config: ModelConfig, wanted: ModelConfig, run: Path) -> str | None:
    """Why the commit of `wanted` could not be loaded, if `config` means another one by now."""
    if not on_hub(config.weights) or wanted.revision is None:
        return None
    now = hub_commit("model", config.weights, config.revision)
    if now == wanted.revision or not COMMIT.fullmatch(now):  # the hub does not answer, and the cache has none
        return None
    return (
        f"model.weights={config.weights}: the run in {run} was trained on commit {wanted.revision}, which cannot be "
        f"loaded any more; {config.revision or 'main'} is now {now}, another model; get the old commit into the local "
        "cache, or train again"
    )


def _gone(weights: str, run: Path) -> str:
    return (
        f"model.weights={weights}: the folder that the run in {run} was trained on is not there; put it back, or set "
        f"model.weights in {run / 'config.yaml'} to where it is now"
    )


def public_name(config: ModelConfig) -> tuple[str, str | None]:
    """Name and commit of a `pinned` base for `adapter_config.json` and cards: what others can load, if anything is.

    A folder is named by its absolute path. Weights inside a package are named by the hub id of their original;
    where none is known, by the folder of the cache that holds them.
    """
    if on_hub(config.weights):
        return config.weights, config.revision
    if config.weights.startswith(paths.PACKAGE_PREFIX):
        if config.hub_id:
            return config.hub_id, None
        from alpaca.modeling.embedded import converted_folder

        return str(converted_folder(config.weights).absolute()), None
    return str(Path(config.weights).expanduser().absolute()), None


@functools.cache
def _say_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
