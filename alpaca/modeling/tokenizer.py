"""The tokenizer of a model, and the two encodings the data room needs of it.

A random model gets a byte-level BPE tokenizer trained on the shipped seed tasks: deterministic, no
download, any text round-trips.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alpaca import paths
from alpaca.config import ModelConfig, TemplateConfig
from alpaca.data.encoding import Pieces, TextEncoder
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.signature import RANDOM

MAX_RANDOM_VOCABULARY = 8192


def tokenizer_of(config: ModelConfig, weights: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to `weights` (a folder or hub id, or `random`).

    Raises:
        UserError: it cannot be loaded, or it has no EOS token.
    """
    if weights == RANDOM:
        return _seed_task_tokenizer(int(config.architecture["vocab_size"]))
    tokenizer = AutoTokenizer.from_pretrained(weights, revision=config.revision)
    if tokenizer.eos_token_id is None:
        raise UserError(f"model={config.name}: its tokenizer has no EOS token, so no response could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never trained on: batches have no padding
    return tokenizer


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

    The chat template is rendered once around a mark, and what is before and after the mark is literal
    text of our template from then on: the same for every row, stored with the model.

    Raises:
        UserError: the tokenizer has no chat template, or one that changes or repeats the user's text.
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
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")[:160]
        raise UserError(
            f"template={config.name}: the model's chat template fails on one user message ({reason}); "
            "choose another template"
        ) from None
    before, *after = str(rendered).split(mark)
    if len(after) != 1 or any(place in str(rendered) for place in ("{instruction}", "{input}")):
        raise UserError(
            f"template={config.name}: the model's chat template changes or repeats the user's text; "
            "choose another template"
        )
    return template.wrapped(before, after[0])


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


def _seed_texts() -> Iterator[str]:
    file: Path = paths.PACKAGE / "data" / "seed_tasks.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        yield from (task["instruction"], task["input"], task["output"])
