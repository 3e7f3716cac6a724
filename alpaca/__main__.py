"""`python -m alpaca`: the commands, and the version."""

import sys

from alpaca import __version__
from alpaca.commands import fail

COMMANDS = {
    "run": "train one run, or many with -m or sweep=NAME",
    "plan": "steps, tokens, memory, hours and dollars; trains nothing",
    "inspect": "what the model will see: masks, lengths, defects, duplicates",
    "generate": "make instruction data with a model",
    "evaluate": "score a finished run, a model folder or a file of outputs",
    "compare": "set runs side by side: differences with intervals, plots",
    "chat": "talk to a run, or serve it",
    "export": "one merged model for from_pretrained",
}


def main(argv: list[str] | None = None) -> int:
    """List the commands; returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    if given == ["--version"]:
        print(f"alpaca {__version__}")
        return 0
    if given and given[0] not in ("-h", "--help"):
        name = given[0].removeprefix("alpaca.")
        way = f"python -m alpaca.{name}" if name in COMMANDS else "python -m alpaca lists the commands"
        return fail(f"{given[0]}: commands are modules; {way}", 2)
    print(f"alpaca {__version__}: ablations of the Stanford Alpaca recipe\n")
    for name, does in COMMANDS.items():
        print(f"  python -m alpaca.{name:<9} {does}")
    print("\nEach has --help; python -m alpaca.run --help lists every group, option and sweep.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
