"""One answer, token by token: greedy ones are those of evaluation, sampled ones draw from a generator of their own.

What is shown while an answer grows is never taken back: text that may still become part of a stop string,
half a character and white space at the end wait until they are certain.
"""

import random

import torch
from transformers import DynamicCache

from alpaca.chatting.opening import Speaker
from alpaca.chatting.sampling import Sampling
from alpaca.engines.decoding import Row as Draw
from alpaca.engines.decoding import sample
from alpaca.engines.protocol import cut_at_stop
from alpaca.errors import RunFailed, UserError
from alpaca.modeling.attention import takes_kv_cache

STOP, LENGTH = "stop", "length"


class Reply:
    """An answer in the making: call `step` until `ended` is set.

    Attributes:
        text: what is certain of it, without white space around it.
        made: its tokens, EOS included; `tokens` is how many.
        ended: None while it grows, then `stop` (EOS or a stop string) or `length`.
    """

    def __init__(
        self,
        speaker: Speaker,
        ids: list[int],
        sampling: Sampling,
        draws: random.Random,
        *,
        stop: tuple[str, ...] | None = None,
    ):
        """An answer to the prompt `ids`; `stop` replaces the template's strings.

        Raises:
            UserError: the prompt alone fills the model's positions.
        """
        room = sampling.max_new_tokens
        if speaker.positions is not None:
            room = min(room, speaker.positions - len(ids))
        if room < 1:
            raise UserError(
                f"the prompt has {len(ids):,} tokens and {speaker.name} takes {speaker.positions:,}, answer included; "
                "ask something shorter"
            )
        self.text, self.tokens, self.ended = "", 0, None if ids else STOP
        self._speaker, self._sampling, self._draws, self._room = speaker, sampling, draws, room
        self._stop = tuple(mark for mark in (speaker.prompting.template.stop if stop is None else stop) if mark)
        self.made: list[int] = []
        self._ids = self._next = ids
        # A model that carries a state in place of a cache of keys and values reads everything again each time.
        self._cache = DynamicCache(config=speaker.model.config) if takes_kv_cache(speaker.plain) else None

    def step(self) -> str:
        """Make one more token; returns the text that became certain by it, often none.

        Raises:
            RunFailed: not enough memory.
        """
        token = self._token()
        self.made.append(token)
        self._next = [token] if self._cache is not None else [*self._ids, *self.made]
        self.tokens += 1
        if token in self._speaker.ends:
            whole, self.ended = self._decoded(self.made[:-1]), STOP
        else:
            whole = self._decoded(self.made)
            if any(mark in whole for mark in self._stop):
                self.ended = STOP
            elif self.tokens >= self._room:
                self.ended = LENGTH
        before = self.text
        self.text = cut_at_stop(whole, self._stop).strip() if self.ended else _certain(whole, self._stop)
        return self.text[len(before) :]

    @torch.inference_mode()
    def _token(self) -> int:
        speaker, wanted = self._speaker, self._sampling
        try:
            with speaker.compute.autocast():
                logits = speaker.model(
                    input_ids=torch.tensor([self._next], device=speaker.compute.device),
                    past_key_values=self._cache,
                    use_cache=self._cache is not None,
                    logits_to_keep=1,
                ).logits[:, -1]
        except torch.OutOfMemoryError:
            raise RunFailed(f"{speaker.name}: not enough memory on {speaker.compute.device} for this answer") from None
        how = Draw((), self._room, wanted.temperature, wanted.top_p, (), "")
        return int(sample(logits.float(), [how], [self._draws.random()])[0])

    def _decoded(self, ids: list[int]) -> str:
        return str(self._speaker.tokenizer.decode(ids, skip_special_tokens=True))


def _certain(whole: str, stop: tuple[str, ...]) -> str:
    """The part of an unfinished answer that no later token changes or cuts away."""
    shown = whole.rstrip("\ufffd")
    held = max(
        (size for mark in stop for size in range(1, len(mark)) if shown.endswith(mark[:size])),
        default=0,
    )
    return shown[: len(shown) - held].strip()
