"""What `python -m alpaca.chat` does with its options: one answer for a script, a server, or a conversation."""

import random
import sys
from dataclasses import dataclass

from rich.console import Console

from alpaca.chatting.commands import NAMES, Leave, obey
from alpaca.chatting.opening import open_speaker
from alpaca.chatting.prompts import prompt_ids, question
from alpaca.chatting.reading import Dropped, Reader
from alpaca.chatting.replies import Reply
from alpaca.chatting.sampling import Sampling
from alpaca.chatting.session import Session
from alpaca.chatting.showing import printable
from alpaca.errors import RunFailed, UserError


@dataclass(frozen=True)
class Options:
    """The command line: what is talked to, how, and with what."""

    run: str
    sampling: Sampling
    given: str = ""
    template: str | None = None
    remembers: bool = False
    compare: str | None = None
    port: int | None = None


def answer_once(options: Options, text: str) -> None:
    """Print the answer to `text`, nothing else.

    Raises:
        UserError, RunFailed: there is none.
    """
    speaker = open_speaker(options.run, template=options.template)
    ids = prompt_ids(speaker, question(text, options.given))
    reply = Reply(speaker, ids, options.sampling, random.Random(options.sampling.seed))
    shown = printable if sys.stdout.isatty() else str
    while reply.ended is None:
        sys.stdout.write(shown(reply.step()))
        sys.stdout.flush()
    print()


def serve(options: Options) -> None:
    """Answer OpenAI's protocol until Ctrl-C.

    Raises:
        UserError: the extra is missing, the port cannot be had, or the model cannot be loaded.
    """
    from alpaca.chatting.port import require_extra, taken

    require_extra()
    with taken(options.port or 0) as listening:
        speaker = open_speaker(options.run, template=options.template)
        from alpaca.chatting.serving import serve_forever

        serve_forever(speaker, options.sampling, listening)


def converse(options: Options) -> None:
    """Talk until the user leaves.

    Raises:
        UserError: a model cannot be loaded.
    """
    console = Console(file=sys.stdout, highlight=False)
    speaker = open_speaker(options.run, template=options.template)
    session = Session(
        console,
        speaker,
        options.sampling,
        remembers=options.remembers,
        given=options.given,
        template=options.template,
    )
    if options.compare is not None:
        session.compare(options.compare)
    _welcome(session)
    reader = Reader(NAMES)
    try:
        while _turn(session, reader):
            pass
    finally:
        reader.close()


def _welcome(session: Session) -> None:
    for party in session.parties:
        about = f"{party.speaker.name}: {party.speaker.about}"
        session.console.print(about, markup=False, soft_wrap=True)
    how = "earlier turns stand before each question" if session.remembers else "each question stands alone"
    session.note(f"{how}; {session.sampling.described()}")
    session.note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")


def _turn(session: Session, reader: Reader) -> bool:
    """One message and what follows from it; whether to go on."""
    try:
        text = reader.read(f"[input: {len(session.given)} characters] > " if session.given else "> ")
    except Dropped:
        session.note("\nmessage dropped")
        return True
    except (EOFError, KeyboardInterrupt):
        session.note("\ngoodbye")
        return False
    try:
        if text.startswith("/"):
            obey(session, text)
        elif text.strip():
            session.ask(text.strip())
    except KeyboardInterrupt:
        session.note("stopped")
    except Leave:
        session.note("goodbye")
        return False
    except (UserError, RunFailed) as error:
        session.console.print(str(error), style="red", markup=False, soft_wrap=True)
    return True
