"""GGUF through llama.cpp's own converter, where it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from alpaca.errors import RunFailed, UserError

SCRIPT = "convert_hf_to_gguf.py"
TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def find() -> Path:
    """The converter: `$LLAMA_CPP/convert_hf_to_gguf.py`, or one on the PATH.

    Raises:
        UserError: there is none.
    """
    folder = os.environ.get("LLAMA_CPP")
    if folder and (script := Path(folder).expanduser() / SCRIPT).is_file():
        return script
    if found := shutil.which(SCRIPT):
        return Path(found)
    raise UserError(
        f"--gguf: llama.cpp's {SCRIPT} is not installed; clone llama.cpp and set LLAMA_CPP to its folder, or "
        "leave out --gguf"
    )


def convert(script: Path, folder: Path, name: str, dtype: torch.dtype) -> Path:
    """Write `NAME.gguf` into the exported `folder`.

    Raises:
        RunFailed: the converter failed; its last line is the reason.
    """
    file = folder / f"{name}.gguf"
    command = [sys.executable, str(script), str(folder), "--outfile", str(file), "--outtype", TYPES[dtype]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RunFailed(f"--gguf: {script} failed ({said[-1] if said else f'exit status {done.returncode}'})")
    return file
