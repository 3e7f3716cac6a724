"""A `config.yaml` that is damaged is one line for every command that reads it."""

import json
from pathlib import Path

import pytest

from alpaca.config import GenerationConfig
from alpaca.errors import UserError
from alpaca.evaluation.targets import find
from alpaca.modeling.finished import read_record
from alpaca.selfinstruct.directories import check_same

DAMAGED = [
    b"",
    b"\x00\xff\xfe",
    b"generation: {target: 3",
    b"- a\n- list\n",
    b"a text",
    b"name: [1, 2\n",
    b"generation: 7\n",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_generation_is_not_continued(tmp_path: Path, content: bytes):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml: it is damaged; restore it"):
        check_same(tmp_path, GenerationConfig(target=3))


@pytest.mark.parametrize("content", DAMAGED[1:])
@pytest.mark.parametrize("read", [lambda folder: find(str(folder)), read_record], ids=["evaluate", "export"])
def test_a_damaged_run_is_not_read(tmp_path: Path, content: bytes, read):
    (tmp_path / "model").mkdir()
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished"}))
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml: .*it is damaged") as refused:
        read(tmp_path)
    assert "\n" not in str(refused.value)
