"""Prompt and response are encoded apart; the labels of an example decode to its response and its end."""

import json
from pathlib import Path

import pytest
from commands import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from alpaca.config import ModelConfig
from alpaca.data.encoding import TOO_LONG, encode
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.modeling.base import load_tokenizer
from alpaca.modeling.tokenizer import text_encoder

TEMPLATE = Template("t", "Q: {instruction} {input}\nA:", "Q: {instruction}\nA:")
TINY = load_tokenizer(
    OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(CHECKOUT / "conf/model/tiny.yaml"))
    )
)


def llama_like() -> PreTrainedTokenizerFast:
    """A byte-fallback tokenizer with BOS and the dummy space of SentencePiece, as LLaMA's is."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", "\u2581a", "\u2581b", *"abcdefghijklmnopqrstuvwxyzQA:."]
    backend = Tokenizer(
        models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@given(st.text(), st.text())
def test_the_labels_of_any_row_decode_to_its_response_and_end_with_eos(instruction: str, output: str):
    rows = [Row(instruction, "", output)]
    examples = encode(rows, TEMPLATE, text_encoder(TINY), max_length=1 << 20, over_length="error")
    labels = examples.ids(0)[examples.prompt_lengths[0] :].tolist()
    assert labels[-1] == TINY.eos_token_id
    assert TINY.decode(labels[:-1]) == output
    assert TINY.decode(examples.prompt(0).tolist()) == TEMPLATE.prompt(rows[0])


def test_a_response_that_spells_a_special_token_is_text():
    encoder = text_encoder(TINY)
    (ids,) = encoder.responses(["the end </s> or not"])
    assert TINY.eos_token_id not in ids
    assert encoder.eos == TINY.eos_token_id


@pytest.mark.parametrize("output", ["ab", " ab", "  ab", "\nab", "é ü", ""])
def test_no_dummy_space_comes_before_a_response_and_its_own_space_stays(output: str):
    tokenizer = llama_like()
    (ids,) = text_encoder(tokenizer).responses([output])
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.bos_token_id not in ids
    text = b"".join(bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.encode() for p in pieces).decode()
    assert text.replace("\u2581", " ") == output


def test_a_prompt_opens_with_bos_where_the_tokenizer_has_that_habit():
    (with_habit,) = text_encoder(llama_like()).prompts(["ab"])
    (without,) = text_encoder(TINY).prompts(["ab"])
    assert with_habit[0] == 1
    assert with_habit.count(1) == 1
    assert TINY.bos_token_id not in without


def test_the_training_prompt_is_the_inference_prompt_token_for_token():
    rows = [Row("Name a fruit", "red", "apple")]
    examples = encode(rows, TEMPLATE, text_encoder(TINY), max_length=512, over_length="error")
    assert examples.prompt(0).tolist() == TINY(TEMPLATE.prompt(rows[0]))["input_ids"]


def test_a_truncated_response_loses_its_end_and_is_counted():
    rows = [Row("Go", "", "one two three four five six seven eight nine ten"), Row("Go", "", "one")]
    whole = encode(rows, TEMPLATE, text_encoder(TINY), max_length=512, over_length="truncate")
    limit = int(whole.lengths[0]) - 2
    cut = encode(rows, TEMPLATE, text_encoder(TINY), max_length=limit, over_length="truncate")
    assert (whole.truncated, cut.truncated) == (0, 1)
    assert cut.ids(0).tolist() == whole.ids(0)[:limit].tolist()
    assert cut.ids(0)[-1] != TINY.eos_token_id == cut.ids(1)[-1]


def test_a_row_too_long_is_dropped_or_refused_by_setting():
    rows = [Row("Go", "", "one " * 50), Row("Go", "", "one")]
    dropped = encode(rows, TEMPLATE, text_encoder(TINY), max_length=40, over_length="drop")
    assert (len(dropped), dropped.rows.tolist(), dropped.dropped) == (1, [1], {TOO_LONG: 1})
    with pytest.raises(UserError, match=r"train\.max_length=40"):
        encode(rows, TEMPLATE, text_encoder(TINY), max_length=40, over_length="error")


def test_no_example_is_without_labels():
    rows = [Row("Go " * 100, "", "one"), Row("Go", "", "")]
    examples = encode(rows, TEMPLATE, text_encoder(TINY), max_length=60, over_length="truncate")
    assert examples.rows.tolist() == [1]
    assert (examples.supervised > 0).all()
    assert sum(examples.dropped.values()) == 1


@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_a_random_model_is_trained_with_the_tokenizer_that_its_saved_result_is_loaded_with(
    model_type: str, tmp_path: Path
):
    tokenizer = load_tokenizer(
        ModelConfig(weights="random", architecture={"model_type": model_type, "vocab_size": 1024})
    )
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    text = "Count from 17 to 2048.\n\n### Response:"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
