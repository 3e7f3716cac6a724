"""The saved result, loaded once as every later command loads it, must give the logits that the run ended with.

Its tokenizer must split text as the run's did.

Rank 0 does this last of all, when nothing needs the trained model any more: its memory is given back first, so
that there are never two copies on a device. A model that was split over ranks may not fit on one; it is loaded
into the host's memory, as it was at the start.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.modeling.finished import MODEL, PROBE, Finished, Record, load_result, stored_dtype
from alpaca.modeling.quantised import logical_size
from alpaca.modeling.tokenizer import split_alike
from alpaca.tracking.terminal import Terminal
from alpaca.training.guards import is_out_of_memory, release_memory
from alpaca.training.saving import probe
from alpaca.training.sharding import is_sharded

# Largest difference of a logit, as a share of the largest logit, by the dtype that weights are stored in. On one
# device both are computed by the same kernels and agree to the last bit, or nearly.
BOUNDS = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
PISSA_HALF = 0.15  # its base was rounded when the run took the principal part out; 7.5 % on SmolLM2-135M in bf16
COMPARED_TOKENS = 4096
ROOM = 1.2  # memory that loading takes, as a multiple of the weights


def check_reload(
    config: Config,
    run: Path,
    facts: dict[str, Any],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tokens: np.ndarray,
    device: torch.device,
    terminal: Terminal,
) -> None:
    """Load the result of the run in `run` and compare it with `probe.safetensors`; `model` is used up.

    Args:
        tokens: ids that `tokenizer` made, of whose text the saved tokenizer must make the same as it.

    Raises:
        RunFailed: it cannot be loaded, or it is not the model that was trained.
    """
    began, folder, stored = time.monotonic(), run / MODEL, stored_dtype(run / PROBE)
    if is_sharded(model):
        device = torch.device("cpu")
        needed = ROOM * sum(map(logical_size, model.parameters())) * stored.itemsize
        if (free := psutil.virtual_memory().available) < needed:
            terminal.warn(
                f"{folder}: not loaded again to compare it, since that takes {needed / 2**30:.0f} GiB of this host's "
                f"memory and {free / 2**30:.0f} are free; python -m alpaca.evaluate {run} does it elsewhere"
            )
            return
    else:
        _give_back(model)
    record = Record(run, config, {}, facts, {}, stored)
    try:
        loaded = load_result(record, device=device)
        difference, largest = _difference(loaded)
    except UserError as error:
        raise RunFailed(f"the saved model cannot be loaded again: {error}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        terminal.warn(f"{folder}: not loaded again to compare it, since memory ran out")
        return
    half_pissa = config.adapter.init == "pissa" and stored != torch.float32
    bound = (PISSA_HALF if half_pissa else BOUNDS[stored]) * largest
    if not difference <= bound:
        raise RunFailed(
            f"{folder}: loaded again it is not the trained model, a logit differs by {difference:.2g} (allowed "
            f"{bound:.2g}), so the scores are not its own; the same command saves it once more from the last "
            "checkpoint, and if that does not help, choose another adapter or model"
        )
    if not split_alike(tokenizer, loaded.tokenizer, str(tokenizer.decode(tokens[:COMPARED_TOKENS]))):
        raise RunFailed(
            f"{folder}: loaded again its tokenizer splits text otherwise than in training, as {_class(tokenizer)} and "
            f"now as {_class(loaded.tokenizer)}; name the class that fits in the tokenizer_config.json of "
            f"model.weights={config.model.weights}"
        )
    terminal.print(
        f"[bold]reload[/] the saved model was loaded again: logits differ by {difference:.0e} at most "
        f"({time.monotonic() - began:.1f} s)"
    )


def _difference(loaded: Finished) -> tuple[float, float]:
    """Largest difference between the logits of the loaded result and the kept ones, and the largest of those."""
    kept = load_file(loaded.record.directory / PROBE)
    logits = probe(loaded.model, kept["input_ids"][0].numpy())["logits"]
    return float((logits - kept["logits"]).abs().max()), float(kept["logits"].abs().max())


def _class(tokenizer: PreTrainedTokenizerBase) -> str:
    return type(tokenizer).__name__


def _give_back(model: nn.Module) -> None:
    """Free the memory of weights and gradients; the model cannot be used afterwards."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.grad = None
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    release_memory()
