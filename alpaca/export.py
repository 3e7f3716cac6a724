"""`python -m alpaca.export RUN [options]`: a finished run as one plain model, ready for `from_pretrained`.

The adapter is merged, the prompt template becomes a chat template, a card says what it was made from.
What was written is loaded again and must give the logits that the run ended with.
"""

import argparse
import re
import sys
from pathlib import Path

from alpaca import commands
from alpaca.startup import ended_by_signals

DTYPES = ("bf16", "fp16", "fp32")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    return commands.run(parser(), _export, argv, interrupted="interrupted; nothing was exported", keeps_going=True)


def _export(options: argparse.Namespace) -> None:
    from alpaca.exporting.command import export

    with ended_by_signals():
        export(
            options.run,
            output=options.output,
            dtype=options.dtype,
            max_shard_size=options.max_shard_size,
            gguf=options.gguf,
            hub_name=options.push_to_hub,
        )


def parser() -> commands.Parser:
    """The command's options."""
    made = commands.Parser(
        "export",
        "Write a finished run as one plain model: merged weights (safetensors), tokenizer with chat template, "
        "generation config, model card. Loads it again and compares its logits with the run's.",
    )
    made.add_argument("run", type=Path, metavar="RUN", help="a finished run directory")
    made.add_argument("--output", type=Path, metavar="DIR", help="folder to write, new; default RUN/export")
    made.add_argument(
        "--dtype", choices=DTYPES, help="storage of the weights; default is the precision the run computed in"
    )
    made.add_argument(
        "--max-shard-size",
        type=_size,
        default="5GB",
        metavar="SIZE",
        help="largest safetensors file, such as 500MB or 2GB; default 5GB",
    )
    made.add_argument("--gguf", action="store_true", help="also a GGUF file, by llama.cpp's convert_hf_to_gguf.py")
    made.add_argument(
        "--push-to-hub", metavar="NAME", help="upload to this repository of the Hugging Face hub, made private if new"
    )
    return made


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write a whole number and KB, MB or GB, such as 2GB")
    return text


if __name__ == "__main__":
    sys.exit(main())
