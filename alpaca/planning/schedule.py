"""Steps and micro-batches of a run: the real planner over real lengths, or over lengths with the real distribution."""

from dataclasses import dataclass

import numpy as np

from alpaca.config import Config
from alpaca.data.microbatch import pack
from alpaca.data.steps import StepPlan, divide, divide_padded
from alpaca.planning.counts import Counts

THOROUGH = 24_576  # examples in the steps that are laid out; a run with more is taken from steps spread over it
QUICK = 1_536  # the same where many settings are compared


@dataclass(frozen=True)
class Schedule:
    """What a run executes on `ranks` ranks with micro-batches of at most `micro_batch_tokens` tokens.

    Attributes:
        steps: optimizer steps.
        original_steps: the same as Stanford's script rounds: whole batches of an epoch, its rest left out.
        logical, executed, supervised: tokens of the whole run over all ranks; executed ones may be padding or fewer
            than logical ones where prefixes are shared.
        micro_batches: of one rank in one step, the mean.
        most_micro_batches: the largest number of them in one step.
        largest: executed tokens of the largest micro-batch.
        largest_labels: the most labels in one micro-batch.
        pairs: query-key pairs of attention over the whole run.
        exact: whether every number is what the run will have.
        looked_at: steps that were laid out.
    """

    steps: int
    original_steps: int
    logical: int
    executed: int
    supervised: int
    micro_batches: float
    most_micro_batches: int
    largest: int
    largest_labels: int
    pairs: int
    exact: bool
    looked_at: int


def plan_of(config: Config, examples: int) -> StepPlan:
    """The step plan of a run over `examples`."""
    train = config.train
    return StepPlan(examples, train.seed, train.epochs, train.global_batch_size, train.max_steps)


def schedule(
    config: Config, counts: Counts, *, ranks: int, micro_batch_tokens: int, look_at: int = THOROUGH
) -> Schedule:
    """Lay out the steps of `config`'s run over `counts`, those that `look_at` examples fill."""
    plan, train = plan_of(config, counts.examples), config.train
    looked = max(1, min(plan.steps, look_at // min(train.global_batch_size, plan.total)))
    numbers = np.unique(np.linspace(0, plan.steps - 1, looked).round().astype(int))
    logical = executed = supervised = pairs = micro = most = largest = labels = seen = 0
    for number in numbers.tolist():
        chosen = plan.step_examples(number) % len(counts.lengths)
        lengths = counts.lengths[chosen].astype(np.int64)
        split = divide if train.packing == "on" else divide_padded
        batches = split(lengths, ranks, micro_batch_tokens)
        seen += len(chosen)
        logical += int(lengths.sum())
        supervised += int(counts.supervised[chosen].sum())
        pairs += int((lengths * (lengths + 1) // 2).sum())
        micro += len(batches[0])
        most = max(most, len(batches[0]))
        for rank in batches:
            for members in rank:
                tokens = _executed(config, counts, chosen[members], lengths[members])
                executed += tokens
                largest = max(largest, tokens)
                labels = max(labels, int(counts.supervised[chosen[members]].sum()))
    whole = min(plan.total, plan.steps * train.global_batch_size) / seen
    per_epoch = counts.examples // train.global_batch_size
    return Schedule(
        steps=plan.steps,
        original_steps=max(1, int(per_epoch * train.epochs)),
        logical=round(logical * whole),
        executed=round(executed * whole),
        supervised=round(supervised * whole),
        micro_batches=micro / len(numbers),
        most_micro_batches=most,
        largest=largest,
        largest_labels=labels,
        pairs=round(pairs * whole),
        exact=counts.exact and len(numbers) == plan.steps,
        looked_at=len(numbers),
    )


def shares_prefix(config: Config) -> bool:
    """The rule of `train.share_prefix=auto`, as `alpaca/training/choices.py` has it."""
    train, adapter = config.train, config.adapter
    inexact = train.packing == "off" or train.train_on_prompt or (adapter.kind != "full" and adapter.dropout > 0)
    return train.share_prefix != "off" and not inexact


def _executed(config: Config, counts: Counts, members: np.ndarray, lengths: np.ndarray) -> int:
    """Tokens that go through the model for one micro-batch."""
    if len(members) == 0:
        return 1
    if config.train.packing == "off":
        return len(lengths) * int(lengths.max())
    if not shares_prefix(config):
        return int(lengths.sum())
    examples = counts.tokenised
    if examples is None:
        return int(lengths.sum()) - counts.opening * (len(members) - 1)
    ids = [examples.ids(index) for index in members]
    prompts = [int(examples.prompt_lengths[index]) for index in members]
    return pack(ids, prompts, share_prefix=True).executed
