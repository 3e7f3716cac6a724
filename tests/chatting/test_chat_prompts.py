"""A question is asked with the tokens of training, after other turns too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import Outcome

from alpaca.chatting.opening import Prompting, Speaker, open_speaker
from alpaca.chatting.prompts import Turn, prompt_ids, prompt_text, question
from alpaca.data.encoding import encode
from alpaca.data.rows import Row
from alpaca.errors import UserError
from alpaca.modeling.chat_template import chat_template

EARLIER = [Turn(question("Count from 5 to 8."), "5 6 7 8"), Turn(question("Translate.", "bonjour"), "hello </s>")]
CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "<{{ message['role'] }}>{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def speaker(finished: Outcome) -> Speaker:
    return open_speaker(str(finished.directory))


@pytest.fixture
def chatty(finished: Outcome, tmp_path: Path) -> Speaker:
    """A model folder whose tokenizer has a chat template, and nothing else that says how to ask it."""
    for file in (finished.directory / "model").iterdir():
        if file.name != "template.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(CHAT)
    return open_speaker(str(tmp_path))


def test_a_question_alone_has_the_tokens_of_its_training_example(speaker: Speaker):
    for row in (Row("Say </s> now.", "", "ok"), Row("Count.", "from 5", "5")):
        examples = encode([row], speaker.prompting.template, speaker.encoder, max_length=512, over_length="error")
        assert prompt_ids(speaker, row) == examples.prompt(0).tolist()


def test_earlier_turns_are_training_examples_one_after_another(speaker: Speaker):
    rows = [replace(turn.row, output=turn.answer) for turn in EARLIER]
    examples = encode(rows, speaker.prompting.template, speaker.encoder, max_length=512, over_length="error")
    ids = prompt_ids(speaker, question("And now?"), EARLIER)
    assert ids == [*examples.tokens.tolist(), *prompt_ids(speaker, question("And now?"))]
    assert ids.count(speaker.tokenizer.eos_token_id) == 2  # one for each answer; the one that is spelt is text
    assert speaker.tokenizer.decode(ids) == prompt_text(speaker, question("And now?"), EARLIER)


def test_earlier_turns_read_as_in_the_exported_chat_template(speaker: Speaker):
    made: Any = speaker.tokenizer
    jinja = chat_template(speaker.prompting.template, made)
    messages = [
        {"role": "user", "content": "Count from 5 to 8."},
        {"role": "assistant", "content": "5 6 7 8"},
        {"role": "user", "content": "And now?"},
    ]
    text = made.apply_chat_template(messages, chat_template=jinja, tokenize=False, add_generation_prompt=True)
    assert text == prompt_text(speaker, question("And now?"), EARLIER[:1])


def test_a_model_with_a_chat_template_gets_messages(chatty: Speaker):
    assert chatty.prompting.message is not None
    shown = prompt_text(chatty, question("And now?"), EARLIER)
    assert shown == (
        "<s><user>Count from 5 to 8.\n<assistant>5 6 7 8</s>\n<user>Translate.\n\nbonjour\n"
        "<assistant>hello </s></s>\n<user>And now?\n<assistant>"
    )
    ids = prompt_ids(chatty, question("And now?"), EARLIER)
    assert chatty.tokenizer.decode(ids) == shown
    assert ids.count(chatty.tokenizer.eos_token_id) == 2
    assert ids.count(chatty.tokenizer.bos_token_id) == 1
    with_system = chatty.tokenizer.decode(prompt_ids(chatty, question("Hi."), system="Be brief."))
    assert with_system == "<s><system>Be brief.\n<user>Hi.\n<assistant>"


def test_a_chat_template_that_loses_turns_is_refused(chatty: Speaker):
    chatty.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(UserError, match="leaves out or repeats earlier turns"):
        prompt_ids(chatty, question("And now?"), EARLIER)


def test_a_system_message_is_refused_where_none_was_trained(speaker: Speaker):
    with pytest.raises(UserError, match="trained on user and assistant messages only"):
        prompt_ids(speaker, question("Hi."), system="Be brief.")


def test_a_model_without_a_template_is_asked_as_the_other_one(chatty: Speaker, speaker: Speaker, tmp_path: Path):
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no prompt template of its own; say how to ask it with --template NAME"):
        open_speaker(str(tmp_path))
    asked = open_speaker(str(tmp_path), otherwise=speaker.prompting).prompting
    assert asked == Prompting(speaker.prompting.template)
    chosen = open_speaker(str(tmp_path), template="vicuna", otherwise=speaker.prompting)
    assert prompt_text(chosen, question("Hi.")).endswith("USER: Hi. ASSISTANT:")
