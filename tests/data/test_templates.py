"""Templates render byte for byte, substitute once, and can be a user's own file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from alpaca import cli, paths
from alpaca.config import TemplateConfig
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.modeling.tokenizer import template_for

NAMES = sorted(file.stem for file in (paths.conf_dir() / "template").glob("*.yaml"))
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
SHORT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


def composed(name: str) -> Template:
    """The template of `template=NAME`."""
    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        config = cli.typed(compose("config", overrides=[f"template={name}"]))
    assert config.template.name == name
    return Template.from_config(config.template)


def test_there_are_nine_templates() -> None:
    assert len(NAMES) == 9


@pytest.mark.parametrize(
    ("name", "with_input", "without_input"),
    [
        ("alpaca", WITH_INPUT, WITHOUT_INPUT),
        ("alpaca_lora", WITH_INPUT + "\n", WITHOUT_INPUT + "\n"),
        ("qlora", WITH_INPUT + " ", WITHOUT_INPUT + " "),
        ("alpaca_short", SHORT, "### Instruction:\n{instruction}\n\n### Response:\n"),
        ("llama2_chat", "[INST] {instruction}\n\n{input} [/INST]", "[INST] {instruction} [/INST]"),
        ("plain", "{instruction}\n\n{input}\n\n", "{instruction}\n\n"),
    ],
)
def test_the_prompt_is_that_of_the_original_byte_for_byte(name: str, with_input: str, without_input: str) -> None:
    template = composed(name)
    assert template.prompt(Row("Add.", "1, 2", "3")) == with_input.replace("{instruction}", "Add.").replace(
        "{input}", "1, 2"
    )
    assert template.prompt(Row("Add.", "", "3")) == without_input.replace("{instruction}", "Add.")


@pytest.mark.parametrize("name", NAMES)
def test_template_marks_in_the_data_come_through_untouched(name: str) -> None:
    template = composed(name)
    row = Row("{input} %s {instruction} {0} \\1 \\g<0>", "### Response: {instruction} 🦙 {{}}", "x")
    prompt = template.prompt(row)
    literal = sum(map(len, _literals(template.prompt_with_input)))
    assert prompt.count(row.instruction) == 1
    assert prompt.count(row.input) == 1
    assert len(prompt) == literal + len(row.instruction) + len(row.input)


def _literals(text: str) -> list[str]:
    return text.replace("{instruction}", "\0").replace("{input}", "\0").split("\0")


@given(st.text(), st.text(), st.sampled_from(["{instruction}|{input}", "a {input} b {instruction} c {input}"]))
def test_pieces_joined_are_the_prompt(instruction: str, context: str, text: str) -> None:
    template = Template("t", text, "{instruction}")
    row = Row(instruction, context, "")
    assert "".join(piece for piece, _ in template.pieces(row)) == template.prompt(row)
    assert sum(is_field for _, is_field in template.pieces(row)) == (text.count("{") if context.strip() else 1)


def test_an_input_of_white_space_counts_as_none() -> None:
    assert composed("alpaca").prompt(Row("Add.", " \n", "3")) == WITHOUT_INPUT.replace("{instruction}", "Add.")


def test_the_hash_changes_with_every_character() -> None:
    base = Template("a", "{instruction}{input}", "{instruction}", ("x",))
    others = [
        Template("a", "{instruction} {input}", "{instruction}", ("x",)),
        Template("a", "{instruction}{input}", "{instruction} ", ("x",)),
        Template("a", "{instruction}{input}", "{instruction}", ("y",)),
    ]
    assert len({template.hash() for template in [base, *others]}) == 4
    assert base.hash() == Template("another name", "{instruction}{input}", "{instruction}", ("x",)).hash()


def test_the_models_own_chat_template_is_rendered_as_transformers_does(embedded) -> None:
    template = template_for(
        embedded, TemplateConfig("tokenizer", "{instruction}\n\n{input}", "{instruction}", [], True)
    )
    row = Row("Name three colours.", "Warm {ones}", "")
    messages = [{"role": "user", "content": "Name three colours.\n\nWarm {ones}"}]
    assert template.prompt(row) == embedded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert template.prompt(row).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        (None, "has no chat template"),
        ("{{ messages[0]['content'] | upper }}", "changes or repeats"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "changes or repeats"),
        ("{{ raise_exception('only tools') }}", "fails on one user message"),
    ],
)
def test_a_chat_template_that_cannot_work_is_refused(byte_level, monkeypatch, chat, reason) -> None:
    monkeypatch.setattr(byte_level, "chat_template", chat)
    with pytest.raises(UserError, match=reason):
        template_for(byte_level, TemplateConfig("tokenizer", "{instruction}{input}", "{instruction}", [], True))


def test_a_users_own_template_is_one_file_in_a_folder_of_theirs(command: Callable[..., str], tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "template"
    mine.mkdir(parents=True)
    (mine / "pirate.yaml").write_text(
        'name: pirate\nprompt_with_input: "Arr! {instruction} ({input})"\nprompt_without_input: "Arr! {instruction}"\n'
    )
    command(
        "--config-dir", str(mine.parent), "template=pirate", "data_source=seed_tasks", "train.eval_rows=2",
        "train.max_steps=1", "train.global_batch_size=2", "output_dir=run", status=0,
    )  # fmt: skip
    stored = json.loads((tmp_path / "run" / "model" / "template.json").read_text())
    assert stored["prompt_without_input"] == "Arr! {instruction}"
    assert stored["hash"] == json.loads((tmp_path / "run" / "data.json").read_text())["template_hash"]


def test_the_jobs_of_a_multirun_find_a_users_own_template(
    command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "template").mkdir(parents=True)
    (tmp_path / "mine" / "template" / "bare.yaml").write_text(
        'name: bare\nprompt_with_input: "{instruction} {input}"\nprompt_without_input: "{instruction}"\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(paths.PACKAGE.parent))
    command(
        "-m", "--config-dir", "mine", "template=bare", "data_source=seed_tasks", "data_source.limit=2",
        "train.eval_rows=2", "train.max_steps=1", "output_dir=sweep", status=0,
    )  # fmt: skip
    (facts,) = (tmp_path / "sweep").glob("*/data.json")
    assert json.loads(facts.read_text())["template"] == "bare"


@pytest.mark.parametrize("key", ["prompt_with_input", "prompt_without_input"])
def test_a_template_without_a_place_for_the_instruction_is_refused(command: Callable[..., str], key: str) -> None:
    error = command("data_source=seed_tasks", f"template.{key}='Answer: {{input}}'")
    assert f"template.{key}" in error
    assert "{instruction}" in error
