"""A served run answers the official client as the terminal does, says what it cannot do, and ends cleanly."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from commands import Outcome, command_environment
from test_chat_command import chatted

pytest.importorskip("fastapi", reason="needs the extra: pip install fastapi uvicorn")
pytest.importorskip("uvicorn", reason="needs the extra: pip install fastapi uvicorn")

ASKED = [{"role": "user", "content": "Count from 5 to 8."}]


@dataclass(frozen=True)
class Served:
    """A server of its own process."""

    process: "subprocess.Popen[str]"
    address: str
    name: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.address, api_key="any", max_retries=0)

    def ask(self, **options: Any) -> Any:
        given = {"model": self.name, "messages": ASKED, "max_tokens": 12, **options}
        return self.client.chat.completions.create(**given)


@pytest.fixture(scope="module")
def served(finished: Outcome) -> Iterator[Served]:
    command = [sys.executable, "-m", "alpaca.chat", str(finished.directory), "--serve", "--port", "0"]
    environment = command_environment(PYTHONUNBUFFERED="1")
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    address = re.search(r"http://127\.0\.0\.1:\d+/v1", lines[1])
    assert address, (lines, process.stderr.read() if process.stderr else "")
    yield Served(process, address[0], finished.directory.name)
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=240)


@pytest.fixture(scope="module")
def said(finished: Outcome) -> str:
    """What the command answers to the same question."""
    return chatted(str(finished.directory), "--once", ASKED[0]["content"], "--max-new-tokens", "12")[1].strip()


def test_the_official_client_gets_the_answer_of_the_chat(served: Served, said: str):
    assert [model.id for model in served.client.models.list()] == [served.name]
    answer = served.ask()
    assert answer.choices[0].message.content == said
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 12)


def test_a_stream_is_the_same_answer_in_pieces(served: Served, said: str):
    chunks = list(served.ask(stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == said
    assert sum(map(bool, pieces)) > 2
    assert chunks[-1].choices[0].finish_reason == "length"
    body = json.dumps({"messages": ASKED, "stream": True, "max_tokens": 2}).encode()
    request = urllib.request.Request(f"{served.address}/chat/completions", body, {"Content-Type": "application/json"})
    assert urllib.request.urlopen(request).read().endswith(b"data: [DONE]\n\n")


def test_stop_strings_seeds_and_earlier_turns_count(served: Served, said: str):
    mark = said[4:6]
    stopped = served.ask(stop=mark)
    assert stopped.choices[0].message.content == said[: said.find(mark)].strip()
    assert stopped.choices[0].finish_reason == "stop"
    first, again = (served.ask(temperature=1.5, seed=7).choices[0].message.content for _ in range(2))
    assert first == again != said
    later = served.ask(messages=[*ASKED, {"role": "assistant", "content": "5 6 7 8"}, *ASKED])
    assert later.usage.prompt_tokens > 2 * served.ask().usage.prompt_tokens
    raw = served.client.completions.create(model=served.name, prompt="Once", max_tokens=3)
    assert raw.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 2}, "n: this server cannot do that"),
        ({"temperature": -1}, "temperature -1.0: must be a number from 0"),
        ({"max_tokens": 0}, "max-new-tokens 0: must be at least 1"),
        ({"stop": [1]}, "stop: must be a string or a list of strings"),
        ({"model": "other"}, "requested 'other'"),
        ({"messages": []}, "must alternate between user and assistant"),
        ({"messages": [*ASKED, *ASKED]}, "must alternate between user and assistant"),
        ({"messages": [{"role": "system", "content": "x"}, *ASKED]}, "leave the system message out"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content a text or parts of text"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "takes 2,048, answer included"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_says_so(served: Served, options: dict[str, Any], message: str):
    with pytest.raises(openai.BadRequestError, match=re.escape(message)):
        served.ask(**options)


def test_ctrl_c_in_the_middle_of_an_answer_ends_it_and_the_server(served: Served):
    stream = iter(served.ask(stream=True, max_tokens=1900))
    for _ in range(5):
        next(stream)
    os.kill(served.process.pid, signal.SIGINT)
    assert len(list(stream)) < 1800
    out, err = served.process.communicate(timeout=60)
    assert (served.process.returncode, out, err) == (0, "stopped\n", "")


@pytest.mark.slow
def test_sigterm_ends_a_server_with_status_0(finished: Outcome):
    command = [sys.executable, "-m", "alpaca.chat", str(finished.directory), "--serve", "--port", "0"]
    environment = command_environment(PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("address"):
                process.terminate()
    assert process.returncode == 0
    assert line == "stopped\n"
