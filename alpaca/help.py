"""`python -m alpaca.run --help`: the commands people need and every group with its options, at once.

Hydra's own help composes the configuration once for each group and takes seconds; this lists the folders.
"""

from alpaca import paths
from alpaca.sweeping.record import parsed_header

TEXT = """\
Ablations of the Stanford Alpaca recipe. One run: GROUP=OPTION picks a file, SECTION.KEY=VALUE changes a value.

  python -m alpaca.run experiment=quickstart                     shipped data, no network, minutes on a CPU
  python -m alpaca.run model=llama7b parallelism=fsdp            the Alpaca recipe on this machine's GPUs
  python -m alpaca.run adapter=lora train.epochs=1               change one thing
  python -m alpaca.run -m adapter.rank=4,8,16 train.seed=0,1     one run for each combination
  python -m alpaca.run sweep=lora_rank experiment=quickstart     the runs that answer a question; again: what is missing
  python -m alpaca.run sweep=lora_rank sweep.dry_run=true        what they cost and what is already there
  python -m alpaca.run ... --cfg job                             print the composed configuration, run nothing

Groups and their options:

{groups}

Sweeps and their questions:

{sweeps}

A folder of options of your own: --config-dir DIR. Keys, their meaning and their defaults: conf/ and
alpaca/config/. Hydra's own flags: --hydra-help.
"""


def text() -> str:
    """The help of `alpaca.run`."""
    listed = "\n".join(f"{group}: {', '.join(options)}" for group, options in groups().items())
    return TEXT.format(groups=listed, sweeps="\n".join(f"{name}: {asked}" for name, asked in questions().items()))


def groups() -> dict[str, list[str]]:
    """Every config group of a run and the names of its options, both in alphabetical order."""
    found = {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in paths.conf_dir().iterdir()
        if folder.is_dir() and folder.name != "hydra"
    }
    found["sweep"] = sorted(file.stem for file in paths.sweeps_dir().glob("*.yaml"))
    return {name: options for name, options in sorted(found.items()) if options}


def questions() -> dict[str, str]:
    """The question of every shipped sweep: the first sentence of its file."""
    files = sorted(paths.sweeps_dir().glob("*.yaml"))
    asked = {file.stem: parsed_header(file.read_text(encoding="utf-8")).question for file in files}
    return {name: question.partition("?")[0] + "?" for name, question in asked.items()}
