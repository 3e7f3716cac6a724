"""A trained PiSSA adapter as a LoRA of the untouched base, so that anyone can load it.

PiSSA (Meng et al. 2024, arXiv:2404.02948) trains W' + s B A where W' = W - s B0 A0 is the base without its
principal part. W' is on no hub. But W' + s B A = W + s (B A - B0 A0) = W + s [B, -B0] [A; A0]: a LoRA of
twice the rank on W itself. W' was rounded to its storage type when the run began, so in bf16 the two
agree up to that rounding.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def rewrite_as_lora(folder: Path, initial: dict[str, torch.Tensor]) -> None:
    """Rewrite the adapter saved in `folder`; `initial` holds A0 and B0 under the names of the saved tensors."""
    file = folder / "adapter_model.safetensors"
    trained, joined = load_file(file), {}
    for name, tensor in trained.items():
        start = initial[name].to(tensor.dtype)
        is_a = ".lora_A." in name
        joined[name] = torch.cat([tensor, start if is_a else -start], dim=0 if is_a else 1).contiguous()
    save_file(joined, file, metadata={"format": "pt"})
    settings_file = folder / "adapter_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    # The scaling stays what it was: alpha / rank, or alpha / sqrt(rank) with rsLoRA.
    settings["lora_alpha"] *= 2**0.5 if settings["use_rslora"] else 2
    settings["r"] *= 2
    settings["init_lora_weights"] = True
    settings_file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
