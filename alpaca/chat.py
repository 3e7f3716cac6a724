"""`python -m alpaca.chat RUN [options]`: talk with a run in the terminal, beside another, or serve it.

Questions are asked with the run's own template, tokenised as in training; without sampling an answer is
what evaluation would have written. `--once TEXT` prints one answer for a script, `--serve` answers any
client that speaks OpenAI's protocol.
"""

import argparse
import io
import sys
from typing import Any

from alpaca import commands
from alpaca.chatting.sampling import Sampling
from alpaca.errors import UserError

PORT = 8000
STDIN = "-"
SETTINGS = ("temperature", "top_p", "max_new_tokens", "seed")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    return commands.run(parser(), _chat, argv)


def _chat(given: argparse.Namespace) -> None:
    _any_text()
    _refuse_nonsense(given)
    sampling = _sampling(given)
    text = _question(given.once)
    from alpaca.chatting import command

    options = command.Options(
        run=given.run,
        sampling=sampling,
        given=given.input or "",
        template=given.template,
        remembers=given.history,
        compare=given.compare,
        port=PORT if given.port is None else _port(given.port),
    )
    if given.serve:
        command.serve(options)
    elif text is not None:
        command.answer_once(options, text)
    else:
        command.converse(options)


def parser() -> commands.Parser:
    """The command's options."""
    made = commands.Parser(
        "chat",
        "Talk with a finished run in the terminal, asked with its own prompt template. "
        "/help lists the commands of a chat.",
    )
    made.add_argument(
        "run", metavar="RUN", help="a finished run directory, a folder with a model, or an option of conf/model"
    )
    made.add_argument("--input", metavar="TEXT", help="the input that goes with the questions")
    made.add_argument("--history", action="store_true", help="earlier turns stand before each question")
    made.add_argument("--template", metavar="NAME", help="ask with this option of conf/template, not the run's own")
    sampling = made.add_argument_group("answers")
    defaults = Sampling()
    sampling.add_argument("--temperature", metavar="T", help="0, the default, takes the likeliest token each time")
    sampling.add_argument("--top-p", metavar="P", help="draw from the likeliest tokens of this total probability; 1")
    sampling.add_argument("--max-new-tokens", metavar="N", help=f"longest answer; {defaults.max_new_tokens}")
    sampling.add_argument("--seed", metavar="N", help=f"where the draws begin; {defaults.seed}")
    ways = made.add_argument_group("instead of a conversation")
    ways.add_argument("--compare", metavar="OTHER", help="a conversation with two models side by side")
    ways.add_argument("--once", metavar="TEXT", help="print the answer to TEXT, nothing else; - reads standard input")
    ways.add_argument("--serve", action="store_true", help="an OpenAI-compatible server on 127.0.0.1")
    ways.add_argument("--port", metavar="N", help=f"its port, 0 for any that is free; {PORT}")
    return made


def _any_text() -> None:
    """Bytes that are no text, and characters the terminal has none for, become a mark instead of an error."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _refuse_nonsense(given: Any) -> None:
    """Options that would do nothing together are refused."""
    once, compare = given.once is not None, given.compare is not None
    together = [
        (given.serve and once, "--serve --once: a server or one answer, not both; leave one out"),
        (given.serve and compare, "--serve --compare: one model is served; start a second server for the other"),
        (once and compare, "--once --compare: one answer is printed; ask each model with --once, or leave it out"),
        (given.serve and given.history, "--serve --history: a client sends its earlier turns itself; leave it out"),
        (given.serve and given.input is not None, "--serve --input: a client sends its questions itself; leave it out"),
        (once and given.history, "--once --history: one question has no earlier turns; leave --history out"),
        (given.port is not None and not given.serve, "--port: only a server has one; add --serve"),
    ]
    for wrong, line in together:
        if wrong:
            raise UserError(line)


def _sampling(given: Any) -> Sampling:
    settings = Sampling()
    for name in SETTINGS:
        if (text := getattr(given, name)) is not None:
            try:
                settings = settings.changed(name, text)
            except UserError as error:
                raise UserError(f"--{error}") from None
    return settings


def _question(once: str | None) -> str | None:
    if once is None:
        return None
    text = (sys.stdin.read() if once == STDIN else once).strip()
    if not text:
        raise UserError("--once: the question is empty; write it after --once, or give it to --once - as input")
    return text


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise UserError(f"--port {text}: must be a whole number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
