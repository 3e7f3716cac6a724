"""A chat in the terminal: its state, and a question answered by one model or by two."""

import random
import time
from dataclasses import dataclass, field

from rich.console import Console

from alpaca.chatting.opening import Speaker, open_speaker
from alpaca.chatting.prompts import Turn, prompt_ids, question
from alpaca.chatting.replies import LENGTH, Reply
from alpaca.chatting.sampling import Sampling
from alpaca.chatting.showing import printable
from alpaca.chatting.side_by_side import grow
from alpaca.data.rows import Row


@dataclass
class Party:
    """A model of the chat, its draws, what it has answered, and the last question with the turns before it."""

    speaker: Speaker
    draws: random.Random
    turns: list[Turn] = field(default_factory=list)
    asked: tuple[Row, list[Turn]] | None = None


class Session:
    """One model, or two that are compared.

    Attributes:
        remembers: earlier turns stand before a question.
        given: the input of every question, or "".
        template: the option of conf/template that every model is asked with, None for each one's own.
    """

    def __init__(
        self,
        console: Console,
        speaker: Speaker,
        sampling: Sampling,
        *,
        remembers: bool = False,
        given: str = "",
        template: str | None = None,
    ):
        """A chat with `speaker`; `compare` adds a second one."""
        self.console, self.sampling, self.template = console, sampling, template
        self.remembers, self.given = remembers, given
        self.parties = [self._party(speaker)]

    def compare(self, reference: str | None) -> None:
        """Answer with what `reference` names beside the first model from now on; None ends it.

        Raises:
            UserError, RunFailed: it cannot be loaded; all stays as it was.
        """
        others = []
        if reference is not None:
            own = self.parties[0].speaker.prompting
            others.append(self._party(open_speaker(reference, template=self.template, otherwise=own)))
        self.parties = self.parties[:1] + others

    def change(self, sampling: Sampling) -> None:
        """Other settings; a new seed begins the draws anew."""
        if sampling.seed != self.sampling.seed:
            for party in self.parties:
                party.draws = random.Random(sampling.seed)
        self.sampling = sampling

    def clear(self) -> None:
        """Forget every turn and the input."""
        self.given = ""
        for party in self.parties:
            party.turns.clear()
            party.asked = None

    def ask(self, text: str) -> None:
        """Answer `text`; Ctrl-C ends the answer, what there is of it counts as the turn.

        Raises:
            UserError: the prompt is too long, or cannot be made.
            RunFailed: not enough memory.
        """
        row = question(text, self.given)
        replies = [Reply(party.speaker, self._fitted(party, row), self.sampling, party.draws) for party in self.parties]
        started = time.monotonic()
        stopped = False
        try:
            if len(replies) == 1:
                self._stream(replies[0])
            else:
                grow(self.console, [party.speaker.name for party in self.parties], replies)
        except KeyboardInterrupt:
            stopped = True
        for party, reply in zip(self.parties, replies, strict=True):
            if reply.text:
                party.turns.append(Turn(row, reply.text))
        self.note("stopped" if stopped else self._summary(replies, time.monotonic() - started))

    def note(self, text: str) -> None:
        """A line beside the conversation."""
        self.console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def earlier(self, party: Party) -> list[Turn]:
        """The turns that stand before the next question."""
        return party.turns if self.remembers else []

    def _party(self, speaker: Speaker) -> Party:
        return Party(speaker, random.Random(self.sampling.seed))

    def _stream(self, reply: Reply) -> None:
        out = self.console.file
        try:
            while reply.ended is None:
                if piece := reply.step():
                    out.write(printable(piece))
                    out.flush()
        finally:
            out.write("\n" if reply.text else "")
            out.flush()

    def _fitted(self, party: Party, row: Row) -> list[int]:
        """The prompt; the oldest turns are left out where they and the answer are more than the model takes."""
        turns, most = self.earlier(party), party.speaker.positions
        for first in range(len(turns) + 1):
            ids = prompt_ids(party.speaker, row, turns[first:])
            if first == len(turns) or most is None or len(ids) + self.sampling.max_new_tokens <= most:
                break
        party.asked = row, turns[first:]
        if first:
            self.note(f"{party.speaker.name} takes {most:,} tokens: the {first} oldest of {len(turns)} turns left out")
        return ids

    def _summary(self, replies: list[Reply], seconds: float) -> str:
        tokens = sum(reply.tokens for reply in replies)
        parts = [f"{tokens} token{'s' if tokens != 1 else ''}, {tokens / max(seconds, 1e-9):.1f} a second"]
        if not any(reply.text for reply in replies):
            parts.append("the answer is empty")
        if any(reply.ended == LENGTH for reply in replies):
            parts.append("cut off at the longest answer; /set max-new-tokens N allows more")
        return "; ".join(parts)
