"""The commands of a chat, each a line that begins with `/`."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from alpaca.chatting.prompts import prompt_ids, prompt_text, question
from alpaca.chatting.session import Session
from alpaca.chatting.showing import printable
from alpaca.errors import UserError

OFF, ON = "off", "on"


@dataclass(frozen=True)
class Command:
    """A command: its name, what may follow it, what it does, and the function that does it."""

    name: str
    takes: str
    does: str
    run: Callable[[Session, str], None]


class Leave(Exception):
    """The user is done."""


def obey(session: Session, line: str) -> None:
    """Do what `line` says.

    Raises:
        Leave: /exit.
        UserError: no such command, or one that cannot be done.
    """
    name, _, rest = line.partition(" ")
    name, newline, below = name.partition("\n")
    for command in COMMANDS:
        if command.name == name:
            command.run(session, (below if newline else rest).strip())
            return
    close = get_close_matches(name, NAMES, n=1)
    meant = f"did you mean {close[0]}?" if close else "/help lists them"
    raise UserError(f"{name}: no such command; {meant} (a question that begins with / is written with a space first)")


def _help(session: Session, _: str) -> None:
    width = max(len(f"{command.name} {command.takes}") for command in COMMANDS) + 2
    lines = [f"  {f'{command.name} {command.takes}':<{width}}{command.does}" for command in COMMANDS]
    session.console.print("\n".join([*lines, "", *AROUND]), markup=False, highlight=False, soft_wrap=True)


def _input(session: Session, text: str) -> None:
    session.given = text
    session.note(f"input of every question: {len(text)} characters" if text else "no input")


def _set(session: Session, text: str) -> None:
    if text:
        name, _, value = text.replace("=", " ").partition(" ")
        if not value.strip():
            raise UserError(f"/set {name}: give it a value, as in /set temperature 0.7")
        session.change(session.sampling.changed(name, value.strip()))
    session.note(session.sampling.described())


def _history(session: Session, text: str) -> None:
    if text not in ("", ON, OFF):
        raise UserError(f"/history {text}: write /history, /history on or /history off")
    if text:
        session.remembers = text == ON
    for party in session.parties:
        for turn in party.turns:
            given = f" [input: {turn.row.input}]" if turn.row.input else ""
            session.console.print(f"> {turn.row.instruction}{given}", markup=False, highlight=False, style="bold")
            session.console.print(printable(turn.answer), markup=False, highlight=False, soft_wrap=True)
        session.note(
            f"{party.speaker.name}: turns so far {len(party.turns)}; the next question "
            + ("stands after them" if session.remembers else "stands alone (/history on puts them before it)")
        )


def _clear(session: Session, _: str) -> None:
    session.clear()
    session.note("earlier turns and input forgotten")


def _template(session: Session, text: str) -> None:
    for party in session.parties:
        row, earlier = question(text or "{instruction}", session.given), session.earlier(party)
        if not text and party.asked is not None:
            row, earlier = party.asked
        ids = prompt_ids(party.speaker, row, earlier)
        prompt = printable(prompt_text(party.speaker, row, earlier))
        session.console.print(prompt, markup=False, highlight=False, soft_wrap=True)
        stop = ", ".join(map(repr, party.speaker.prompting.template.stop)) or "nothing else"
        session.note(f"{party.speaker.name}: {len(ids)} tokens; an answer ends at EOS, or at {stop}")


def _compare(session: Session, text: str) -> None:
    if text == OFF:
        session.compare(None)
        session.note("one model again")
    elif text:
        session.note(f"loading {text}")
        session.compare(text)
        other = session.parties[-1].speaker
        session.note(f"beside {other.name}: {other.about}")
    else:
        session.note(" beside ".join(party.speaker.name for party in session.parties))


def _exit(session: Session, _: str) -> None:
    raise Leave


COMMANDS = (
    Command("/help", "", "this list", _help),
    Command("/input", "[TEXT]", "the input of every question from here on; without TEXT none", _input),
    Command("/set", "[NAME VALUE]", "sampling: temperature, top-p, max-new-tokens, seed; alone shows them", _set),
    Command("/history", "[on|off]", "show earlier turns; whether they stand before the next question", _history),
    Command("/clear", "", "forget earlier turns and the input", _clear),
    Command("/template", "[QUESTION]", "the exact prompt of QUESTION, or of the last question", _template),
    Command("/compare", "[OTHER|off]", "answer beside OTHER (a run, a model folder, smollm2_135m)", _compare),
    Command("/exit", "", "leave; Ctrl-D and Ctrl-C at the prompt do too", _exit),
)
NAMES = [command.name for command in COMMANDS]
AROUND = (
    "A line that ends in \\ goes on in the next one; a message between two \"\"\" may have many lines.",
    "Ctrl-C stops an answer.",
)  # fmt: skip
