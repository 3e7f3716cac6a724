"""The tokenizer of a model, and the two encodings the data room needs of it.

A random model gets a byte-level BPE tokenizer trained on the shipped seed tasks: deterministic, no
download, any text round-trips.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alpaca import paths
from alpaca.config import ModelConfig, TemplateConfig
from alpaca.data.encoding import Pieces, TextEncoder
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.signature import RANDOM

MAX_RANDOM_VOCABULARY = 8192
UNKNOWN_TEXT = "\U000f1234 \ue123"  # characters of private use: in no vocabulary but as bytes
DATE = datetime(2024, 7, 26)  # for chat templates: what Llama 3's say where they cannot ask for the date
RENDERINGS = 16  # a template that chooses between two texts at random is noticed in 32,767 of 32,768 cases


def tokenizer_of(config: ModelConfig, weights: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to `weights` (a folder or hub id, or `random`).

    Raises:
        UserError: it cannot be loaded, or it has no EOS token that only ends a response.
    """
    if weights == RANDOM:
        own = _seed_task_tokenizer(int(config.architecture["vocab_size"]))
        model_type = config.architecture.get("model_type")
        return _as_loaded_beside(model_type, own) if model_type else own
    tokenizer = AutoTokenizer.from_pretrained(weights, revision=config.revision)
    _check_end(tokenizer, config.name or weights)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never trained on: batches have no padding
    return tokenizer


def _check_end(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer whose EOS token is missing, is none of its tokens, or also stands for unknown text.

    The last is tried out: GPT-2 and its kin call one token EOS, BOS and unknown, but no text is unknown to them.
    """
    end, token = tokenizer.eos_token_id, tokenizer.eos_token
    what = f"model={name}: its tokenizer's EOS token {token!r}"
    way_out = "name another in its tokenizer_config.json (eos_token), such as </s>"
    if end is None:
        raise UserError(f"model={name}: its tokenizer has no EOS token, so no response could end; {way_out}")
    if (meant := tokenizer.convert_ids_to_tokens(end)) != token:
        raise UserError(
            f"{what} is not in its vocabulary and becomes {meant!r} (id {end}), which "
            f"would be taught as the end; {way_out}"
        )
    if end in tokenizer(UNKNOWN_TEXT, add_special_tokens=False)["input_ids"]:
        raise UserError(
            f"{what} (id {end}) also stands for characters it does not know, so responses would end in their middle; "
            f"{way_out}"
        )


def end_warning(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A sentence where the token that ends a response also begins a text or stands for what is unknown."""
    kinds = {"EOS": tokenizer.eos_token_id, "BOS": tokenizer.bos_token_id, "unknown": tokenizer.unk_token_id}
    same = [name for name, number in kinds.items() if number == tokenizer.eos_token_id]
    if len(same) == 1:
        return None
    return (
        f"the tokenizer's {', '.join(same[:-1])} and {same[-1]} token are one, {tokenizer.eos_token!r}: GPT-2, Qwen "
        "and their kin are made so, in another model it is a mistake of its tokenizer_config.json"
    )


def other_end_warning(model: Any, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A sentence where the base of an adapter ends generation elsewhere: plain peft takes its generation config."""
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if tokenizer.eos_token_id in (declared if isinstance(declared, list) else [declared]):
        return None
    return (
        f"the base's generation config ends at token {declared}, this run's responses at {tokenizer.eos_token_id} "
        f"({tokenizer.eos_token!r}): with plain peft pass generate(eos_token_id=...), or export the run"
    )


def generation_settings(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Generation config of a model trained with `tokenizer`: greedy, ending where the training examples ended.

    The base's own may name another end, and then plain `generate` never stops. No stop strings: with them
    `generate` and pipelines fail unless they are handed the tokenizer.
    """
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**special, do_sample=False)


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """Prompt and response encodings with the boundary rule of `data/encoding.py`.

    Raises:
        UserError: the tokenizer is not backed by the `tokenizers` library, so the rule cannot be kept.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(f"{type(tokenizer).__name__} has no fast tokenizer.json; convert it with transformers first")
    text = backend.to_str()
    settings = json.loads(text)
    whole = _text_only(text)
    bare = _text_only(json.dumps(_without_dummy_space(settings)))
    later = _text_only(json.dumps(_without_dummy_space(settings, only_first=True)))
    opening = opening_tokens(tokenizer)
    special = {token.content: index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    marks = re.compile("|".join(re.escape(mark) for mark in sorted(special, key=len, reverse=True)) or r"(?!)")
    strips = {token.content: token for token in backend.get_added_tokens_decoder().values()}

    def opened(ids: list[int]) -> list[int]:
        return ids if opening and ids[: len(opening)] == opening else opening + ids

    def prompts(texts: list[str]) -> list[list[int]]:
        return [opened(ids) for ids in _encoded(whole, texts)]

    def responses(texts: list[str]) -> list[list[int]]:
        return _encoded(bare, texts)

    def marked_prompts(prompts: list[Pieces]) -> list[list[int]]:
        cut = [_cut_at_marks(pieces, marks, strips) for pieces in prompts]
        first = iter(_encoded(whole, [parts[0] for parts in cut]))
        others = iter(_encoded(later, [part for parts in cut for part in parts[2::2]]))
        return [
            opened([*next(first), *(i for mark in parts[1::2] for i in (special[mark], *next(others)))])
            for parts in cut
        ]

    identity = f"{text}|{opening}|{tokenizer.eos_token_id}|{tokenizers.__version__}"
    return TextEncoder(
        prompts=prompts,
        responses=responses,
        eos=int(tokenizer.eos_token_id),
        marked_prompts=marked_prompts,
        spells_special=lambda text: bool(marks.search(text)),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
    )


def _text_only(settings: str) -> Tokenizer:
    """A tokenizer to which `<eos>` in a text is text, and which neither cuts nor pads."""
    made = Tokenizer.from_str(settings)
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True
    return made


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids if text else [] for text, encoding in zip(texts, encoded, strict=True)]


def _cut_at_marks(pieces: Pieces, marks: re.Pattern[str], tokens: dict[str, AddedToken]) -> list[str]:
    """Text, special token, text, special token, ..., text: special tokens of the template's own pieces only.

    White space beside a token that takes it away (`lstrip`, `rstrip`) goes, as the tokenizer does it.
    """
    parts = [""]
    for text, is_field in pieces:
        if is_field:
            parts[-1] += text
            continue
        start = 0
        for found in marks.finditer(text):
            parts[-1] += text[start : found.start()]
            parts += [found[0], ""]
            start = found.end()
        parts[-1] += text[start:]
    for place in range(1, len(parts), 2):
        if tokens[parts[place]].lstrip:
            parts[place - 1] = parts[place - 1].rstrip()
        if tokens[parts[place]].rstrip:
            parts[place + 1] = parts[place + 1].lstrip()
    return parts


def template_for(tokenizer: PreTrainedTokenizerBase, config: TemplateConfig) -> Template:
    """The template of a config; with `template.chat` its prompts stand in the tokenizer's own chat template.

    The chat template is rendered around a mark, and what is before and after the mark is literal
    text of our template from then on: the same for every row, stored with the model.

    Raises:
        UserError: the tokenizer has no chat template, or one that changes or repeats the user's text, or that
            gives another text each time.
    """
    template = Template.from_config(config)
    if not config.chat:
        return template
    if not tokenizer.chat_template:
        raise UserError(
            f"template={config.name}: this model's tokenizer has no chat template; choose template=chatml, "
            "template=alpaca or a model tuned for chat"
        )
    mark = "\u2042the user's text\u2042"
    try:
        renderings = {render_chat(tokenizer, [{"role": "user", "content": mark}]) for _ in range(RENDERINGS)}
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")[:160]
        raise UserError(
            f"template={config.name}: the model's chat template fails on one user message ({reason}); "
            "choose another template"
        ) from None
    rendered = renderings.pop()
    if renderings:
        raise UserError(
            f"template={config.name}: the model's chat template gives another text each time, so each run would be "
            "another experiment; choose another template"
        )
    before, *after = rendered.split(mark)
    if len(after) != 1 or any(place in rendered for place in ("{instruction}", "{input}")):
        raise UserError(
            f"template={config.name}: the model's chat template changes or repeats the user's text; "
            "choose another template"
        )
    return template.wrapped(before, after[0])


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """Text of `messages` in the model's chat template, up to where the answer begins.

    A template that asks for today's date gets `DATE`: the prompts of a run are the same on any day, and later
    commands ask as training did.
    """
    chat = str(tokenizer.get_chat_template())
    if "strftime_now" in chat:
        chat = f"{_fixed_date()}\n{chat}"  # the newline after a macro goes, by transformers' setting of Jinja
    return str(tokenizer.apply_chat_template(messages, chat_template=chat, tokenize=False, add_generation_prompt=True))


def _fixed_date() -> str:
    """A Jinja macro in place of transformers' `strftime_now`; functions cannot be handed to a template."""
    marks = [f"%{flag}{letter}" for flag in ("-", "") for letter in "aAbBcdDeFhHIjklmMpSTuUwWxXyY"]
    replaced = "".join(f" | replace({mark!r}, {DATE.strftime(mark)!r})" for mark in marks)
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}"


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Special tokens the tokenizer puts before every text by habit: BOS, or nothing."""
    whole = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[:start])
    return []


def _without_dummy_space(settings: dict[str, Any], *, only_first: bool = False) -> dict[str, Any]:
    """The same tokenizer without the space that is put before a text: Prepend, Metaspace or ByteLevel.

    With `only_first` a space that comes before every stretch of text between special tokens is kept, and
    the one that comes before the first stretch alone is taken away.
    """

    def mend(part: dict[str, Any] | None) -> dict[str, Any] | None:
        if part is None:
            return None
        for inner in ("normalizers", "pretokenizers"):
            if inner in part:
                return {**part, inner: [kept for item in part[inner] if (kept := mend(item)) is not None]}
        if part.get("type") == "Metaspace" and (not only_first or part.get("prepend_scheme") == "first"):
            return {**part, "prepend_scheme": "never"}
        if only_first:
            return part
        if part.get("type") == "Prepend":
            return None
        if part.get("type") == "ByteLevel" and "add_prefix_space" in part:
            return {**part, "add_prefix_space": False}
        return part

    return {**settings, **{key: mend(settings[key]) for key in ("normalizer", "pre_tokenizer")}}


def _seed_task_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, MAX_RANDOM_VOCABULARY),
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_seed_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=1 << 30
    )


def _as_loaded_beside(model_type: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """`tokenizer`, or what `AutoTokenizer` makes of it beside a model of `model_type` if that splits text otherwise.

    For some types, such as qwen2, it takes a class with rules of its own whatever the tokenizer's files say. The
    saved model is loaded like that, so it has to be trained like that.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": model_type}))
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer if split_alike(tokenizer, loaded, "\n\n".join(_seed_texts())) else loaded


def split_alike(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether two tokenizers make the same ids of `text` and end a response alike."""
    made = [one(text, add_special_tokens=False)["input_ids"] for one in (first, second)]
    return made[0] == made[1] and first.eos_token_id == second.eos_token_id


def _seed_texts() -> Iterator[str]:
    file: Path = paths.PACKAGE / "data" / "seed_tasks.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        yield from (task["instruction"], task["input"], task["output"])
