"""A micro-batch: several examples as one flat sequence without padding, shared prompt prefixes once.

The sequence is cut into segments that form a forest. A segment's tokens see the tokens of its chain of
parents and, causally, their own; nothing else. Without sharing every example is one segment without a
parent. With sharing a common token prefix of several prompts is a segment of its own and the rest of
each example a child of it. A prefix ends at least one token before the end of each prompt, so that
every example keeps the position that predicts its own first response token; it carries no label.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

MIN_SAVED_TOKENS = 16  # a prefix that saves fewer tokens than this is not worth a segment


@dataclass(frozen=True)
class Segments:
    """Structure of a flat sequence; segments lie in it one after another, parents before children.

    Attributes:
        lengths: tokens of each segment; their sum is the length of the sequence.
        parents: index of the segment each one continues, or -1.
    """

    lengths: tuple[int, ...]
    parents: tuple[int, ...]

    def chain(self, index: int) -> list[int]:
        """The segments whose tokens segment `index` sees, from the root to itself."""
        found = []
        while index >= 0:
            found.append(index)
            index = self.parents[index]
        return found[::-1]


@dataclass(frozen=True)
class MicroBatch:
    """What one rank pushes through the model at once.

    Attributes:
        input_ids, position_ids: (executed,) int64; positions count from each example's start.
        label_positions: (supervised,) int64, where in the sequence a label is predicted.
        labels: (supervised,) int64, the token to predict there.
        owners: (supervised,) index of the example each label belongs to, counted within the micro-batch.
        segments: who sees whom, or None for a padded batch.
        logical: tokens of the examples before sharing.
        rows: rows of a padded batch, all of one length; a packed one is a single row.
        mask: (executed,) bool, False on padding; None where there is none.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    label_positions: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
    segments: Segments | None
    logical: int
    rows: int = 1
    mask: np.ndarray | None = None

    @property
    def executed(self) -> int:
        """Tokens that go through the model."""
        return len(self.input_ids)


def pack(
    ids: Sequence[np.ndarray],
    prompt_lengths: Sequence[int],
    *,
    share_prefix: bool = False,
    first_labels: Sequence[int] | None = None,
) -> MicroBatch:
    """Lay examples out as one flat sequence.

    Args:
        ids: token ids of each example, prompt then response.
        prompt_lengths: tokens of each prompt.
        share_prefix: compute common prefixes of prompts once; they carry no label, so nothing is shared
            where prompts are trained.
        first_labels: the first token of each example that is a label, at least 1; None is the end of its prompt.
    """
    if not ids:
        return empty()
    if first_labels is None:
        first_labels = prompt_lengths
    prompts_trained = any(first < prompt for first, prompt in zip(first_labels, prompt_lengths, strict=True))
    builder = _Builder(ids, prompt_lengths, first_labels)
    builder.place(list(range(len(ids))), start=0, parent=-1, share=share_prefix and not prompts_trained)
    return builder.finish()


def pad(
    ids: Sequence[np.ndarray], prompt_lengths: Sequence[int], *, first_labels: Sequence[int] | None = None
) -> MicroBatch:
    """Lay examples out as rows of one length, padded on the right: the fallback for models that cannot be packed."""
    if not ids:
        return replace(empty(), segments=None)
    width = max(map(len, ids))
    tokens, mask = np.zeros((len(ids), width), np.int64), np.zeros((len(ids), width), bool)
    labelled = []
    for row, (example, first) in enumerate(zip(ids, first_labels or prompt_lengths, strict=True)):
        tokens[row, : len(example)], mask[row, : len(example)] = example, True
        labelled.append(np.arange(row * width + first, row * width + len(example)))
    positions = _joined(labelled)
    return MicroBatch(
        input_ids=tokens.reshape(-1),
        position_ids=np.tile(np.arange(width), len(ids)),
        label_positions=positions - 1,
        labels=tokens.reshape(-1)[positions],
        owners=positions // width,
        segments=None,
        logical=sum(map(len, ids)),
        rows=len(ids),
        mask=mask.reshape(-1),
    )


def empty() -> MicroBatch:
    """The micro-batch of a rank without an example: one token, no label, so every gradient is zero."""
    nothing = np.zeros(0, np.int64)
    one = np.zeros(1, np.int64)
    return MicroBatch(one, one, nothing, nothing, nothing, Segments((1,), (-1,)), logical=0)


class _Builder:
    """Walks down the prompts' common prefixes and writes segments in order."""

    def __init__(self, ids: Sequence[np.ndarray], prompt_lengths: Sequence[int], first_labels: Sequence[int]):
        self.ids, self.prompt_lengths, self.first_labels = ids, prompt_lengths, first_labels
        self.tokens: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.label_positions: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.owners: list[np.ndarray] = []
        self.lengths: list[int] = []
        self.parents: list[int] = []
        self.written = 0

    def place(self, members: list[int], *, start: int, parent: int, share: bool, same: int = 0) -> None:
        """Write the tokens from `start` on of all `members`, which agree on everything before `start + same`.

        A prefix too short to be worth a segment is left with those below it: where only some of the
        members go on together, theirs is counted from `start`.
        """
        groups: dict[int, list[int]] = {}
        for member in members:
            can_share = share and self.prompt_lengths[member] - 1 > start + same
            key = int(self.ids[member][start + same]) if can_share else -1 - member
            groups.setdefault(key, []).append(member)
        for group in groups.values():
            if len(group) == 1:
                self._write_labels(group[0], start)
                self._write(group[0], start, len(self.ids[group[0]]), parent)
                continue
            common = self._common(group, start)
            if common * (len(group) - 1) >= MIN_SAVED_TOKENS:
                segment = self._write(group[0], start, start + common, parent)
                self.place(group, start=start + common, parent=segment, share=True)
            else:
                self.place(group, start=start, parent=parent, share=True, same=common)

    def _common(self, group: list[int], start: int) -> int:
        """Length of the prefix from `start` that the prompts of `group` share, their last tokens left out."""
        end = min(self.prompt_lengths[member] for member in group) - 1
        first = self.ids[group[0]][start:end]
        for member in group[1:]:
            different = np.flatnonzero(self.ids[member][start : start + len(first)] != first)
            if len(different):
                first = first[: different[0]]
        return len(first)

    def _write(self, member: int, start: int, end: int, parent: int) -> int:
        self.tokens.append(self.ids[member][start:end])
        self.positions.append(np.arange(start, end))
        self.lengths.append(end - start)
        self.parents.append(parent)
        self.written += end - start
        return len(self.lengths) - 1

    def _write_labels(self, member: int, start: int) -> None:
        labelled = np.arange(self.first_labels[member], len(self.ids[member]))
        self.label_positions.append(labelled - 1 - start + self.written)
        self.labels.append(self.ids[member][labelled])
        self.owners.append(np.full(len(labelled), member))

    def finish(self) -> MicroBatch:
        return MicroBatch(
            input_ids=_joined(self.tokens),
            position_ids=_joined(self.positions),
            label_positions=_joined(self.label_positions),
            labels=_joined(self.labels),
            owners=_joined(self.owners),
            segments=Segments(tuple(self.lengths), tuple(self.parents)),
            logical=sum(map(len, self.ids)),
        )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
