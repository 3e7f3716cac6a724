"""A response ends with a token that means nothing else, programs stop there, prompts are the same on any day."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commands import CHECKOUT, Outcome
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from alpaca.config import AdapterConfig, ModelConfig, TemplateConfig
from alpaca.data.rows import Row
from alpaca.errors import UserError
from alpaca.modeling.adapters import add_adapter
from alpaca.modeling.base import load_tokenizer
from alpaca.modeling.tokenizer import end_warning, other_end_warning, template_for, tokenizer_of
from alpaca.training.saving import save_model

CHAT = OmegaConf.to_object(OmegaConf.load(CHECKOUT / "conf/template/tokenizer.yaml"))


def words(folder: Path, **special: str) -> str:
    """A tokenizer to which most words are unknown."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special).save_pretrained(folder)
    return str(folder)


def byte_level(folder: Path) -> str:
    """A tokenizer like GPT-2's: one special token for everything, and no text that it does not know."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*alphabet, "<|end|>"])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    one = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|end|>")
    PreTrainedTokenizerFast(tokenizer_object=backend, **one).save_pretrained(folder)
    return str(folder)


def opened(folder: str) -> Any:
    return tokenizer_of(ModelConfig(name="mine", weights=folder), folder)


def test_an_end_that_also_stands_for_unknown_text_is_refused(tmp_path: Path):
    assert opened(words(tmp_path / "good", eos_token="</s>")).eos_token_id == 1
    with pytest.raises(UserError, match=r"EOS token '<unk>' \(id 0\) also stands for characters it does not know"):
        opened(words(tmp_path / "bad", eos_token="<unk>"))
    with pytest.raises(UserError, match="has no EOS token"):
        opened(words(tmp_path / "none"))


def test_an_end_that_is_not_in_the_vocabulary_is_refused(tmp_path: Path):
    folder = words(tmp_path / "empty", eos_token="</s>")
    file = Path(folder) / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": ""}))
    with pytest.raises(UserError, match=r"EOS token '' is not in its vocabulary and becomes '<unk>' \(id 0\)"):
        opened(folder)


def test_one_token_for_everything_is_said_and_works_where_no_text_is_unknown(tmp_path: Path):
    tokenizer = opened(byte_level(tmp_path / "gpt"))
    assert "EOS, BOS and unknown token are one, '<|end|>'" in str(end_warning(tokenizer))
    tokenizer.bos_token = None
    assert "EOS and unknown token are one, '<|end|>'" in str(end_warning(tokenizer))
    assert end_warning(opened(words(tmp_path / "good", eos_token="</s>"))) is None


def test_special_tokens_of_the_wrong_type_are_one_line(tmp_path: Path):
    folder = words(tmp_path / "words", eos_token="</s>")
    file = Path(folder) / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": 1}))
    with pytest.raises(UserError, match="eos_token has to be either str or AddedToken"):
        load_tokenizer(ModelConfig(name="mine", weights=folder))


def chatty(folder: Path, template: str) -> Any:
    tokenizer = opened(byte_level(folder))
    tokenizer.chat_template = template
    return tokenizer


def test_a_chat_template_that_asks_for_the_date_gives_the_same_prompt_on_any_day(tmp_path: Path):
    text = "\n{% set today = strftime_now('%d %b %Y') %}\nToday is {{ today }}. {{ messages[0]['content'] }}\nA:"
    template = template_for(chatty(tmp_path, text), TemplateConfig(**CHAT))
    assert template.prompt(Row("Hi.", "", "")) == "\nToday is 26 Jul 2024. Hi.\nA:"
    assert str(datetime.now().year) not in template.prompt(Row("Hi.", "", ""))


def test_a_chat_template_that_changes_from_call_to_call_is_refused(tmp_path: Path):
    tokenizer = chatty(tmp_path, "{{ ['Dear', 'Hello'] | random }} {{ messages[0]['content'] }}\nA:")
    with pytest.raises(UserError, match="gives another text each time"):
        template_for(tokenizer, TemplateConfig(**CHAT))


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_the_result_stops_where_its_examples_ended(finished: Outcome, tmp_path: Path, adapter: str):
    model: Any = AutoModelForCausalLM.from_pretrained(finished.directory / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished.directory / "model")
    model.generation_config = GenerationConfig(eos_token_id=[1, 7], temperature=0.7, do_sample=True)
    assert "ends at token [1, 7], this run's responses at 2 ('</s>')" in str(other_end_warning(model, tokenizer))
    if adapter == "lora":
        model = add_adapter(model, AdapterConfig(kind="lora"), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data += 1
    save_model(model, tokenizer, tmp_path / "model", {}, lambda path, content: path.write_text(json.dumps(content)))
    saved = GenerationConfig.from_pretrained(tmp_path / "model")
    assert (saved.eos_token_id, saved.pad_token_id, saved.do_sample) == (2, 0, False)
    if adapter == "full":
        reloaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert reloaded.generation_config.eos_token_id == 2
        assert other_end_warning(reloaded, tokenizer) is None
