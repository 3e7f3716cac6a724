"""A run's prompt template as a chat template (Jinja), so that any program that chats asks as training did.

One user message with the generation prompt gives exactly the tokens of the run's prompt without input, and
with an answer after it exactly a training example. Further turns repeat the pattern; none was trained.
"""

from transformers import PreTrainedTokenizerBase

from alpaca.data.encoding import encode_prompts
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.modeling.tokenizer import opening_tokens, text_encoder

PLACE = "{instruction}"
SAMPLE = "Name three primary colours."


def chat_template(template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    """The Jinja text. A system message is refused: no prompt of the run had one.

    The tokenizer's own opening token (BOS) stands in the text, since chat templates are encoded without it.
    """
    opening = "".join(tokenizer.convert_ids_to_tokens(opening_tokens(tokenizer)))
    *before, after = template.prompt_without_input.split(PLACE)
    asked = "".join(f"{{{{ {_literal(text)} }}}}{{{{ message['content'] }}}}" for text in before)
    return (
        (f"{{{{ {_literal(opening)} }}}}" if opening else "") + "{% for message in messages %}"
        "{% if message['role'] == 'user' %}" + asked + "{% elif message['role'] == 'assistant' %}"
        f"{{{{ {_literal(after)} }}}}{{{{ message['content'] }}}}{{{{ eos_token }}}}"
        "{% else %}{{ raise_exception('this model was trained on user and assistant messages only, not on ' "
        "+ message['role']) }}{% endif %}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {_literal(after)} }}}}{{% endif %}}"
    )


def differing_prompt(template: Template, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the tokenizer's chat template gives instead of the run's prompt, or None if it is the same."""
    row = Row(SAMPLE, "", "")
    (expected,) = encode_prompts([row], template, text_encoder(tokenizer))
    encoded = tokenizer.apply_chat_template([{"role": "user", "content": SAMPLE}], add_generation_prompt=True)
    found = encoded["input_ids"] if hasattr(encoded, "keys") else encoded
    return None if list(found) == list(expected) else str(tokenizer.decode(found))


def _literal(text: str) -> str:
    """A Jinja string of any text."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(one, one) for one in text) + "'"
