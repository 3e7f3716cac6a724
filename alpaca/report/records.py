"""What the rooms of a report hand to each other: runs as they are on disk, variants, differences, a comparison."""

from dataclasses import dataclass, field
from typing import Any

FINISHED, FAILED, INTERRUPTED, MISSING = "finished", "failed", "interrupted", "missing"
DAMAGED = "damaged"  # its summary cannot be read: how it ended is not known
BETTER, WORSE, NO_DIFFERENCE, NOT_COMPARABLE, BASELINE = (
    "better",
    "worse",
    "no difference shown",
    "not comparable",
    "baseline",
)
DIFFERENT = "different"  # of a metric that is neither better high nor low
NO_VERDICT = "no verdict"  # of a difference that cannot be judged: no spread is known, or not which way is better


@dataclass(frozen=True)
class Run:
    """One run, read from its directory, from a sweep's list of jobs, or from W&B.

    Attributes:
        name: its folder's name, or that of the W&B run.
        place: its folder or address, as the user may type it; empty for a missing one.
        status: finished, failed, interrupted, damaged or missing.
        seed: `train.seed`; None where unknown.
        variant: hash of its training settings without the seed; runs of one variant differ by seed only.
        settings: dotted key to value, as `config.yaml` has it, `train.seed` and names left out.
        metrics: final numbers of `summary.json`, such as eval/loss.
        curves: metric to (step, value) pairs, from `metrics.jsonl`.
        scores: metric to {example id: score}, from the predictions files: `eval/loss`, `eval/rougeL`, ...
        weights: metric to {example id: weight} where the metric is a weighted mean, as a loss over tokens is.
        shares: metric to the score of a yes, where every example is a yes or a no: 1, or 100 for per cent.
        directions: metric to lower, higher or neither: which is better, as who made the metric declares it.
        texts: example id to {prompt, reference, output}.
        costs: any of wall_time_s, tokens_per_s, peak_memory_gib, trained_parameters, dollars.
        error: why it failed, in a sentence.
        device: as `env.json` names it.
        tokenizer: what tells tokenizers apart (model.weights); losses across them compare as bits per byte.
        job: what sets it apart in the list of its sweep, the seed left out; None for a run that no list names.
        sweep: the folder of that list; empty likewise.
        began: whether it has a run directory; else its settings are only those that set it apart, as text.
    """

    name: str
    place: str
    status: str
    seed: int | None
    variant: str
    settings: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    directions: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, str | None]] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    error: str = ""
    device: str = ""
    tokenizer: str = ""
    job: tuple[str, ...] | None = None
    sweep: str = ""
    began: bool = True


@dataclass(frozen=True)
class Variant:
    """Runs of the same settings over seeds.

    Attributes:
        label: the settings that set it apart, `adapter.rank=8, optimizer.lr=0.0001`; never empty.
        differs: those settings as a dictionary.
        runs: all of them, finished or not.
    """

    label: str
    differs: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have results."""
        return tuple(run for run in self.runs if run.status == FINISHED)


@dataclass(frozen=True)
class Difference:
    """A variant minus the baseline on one metric.

    Attributes:
        estimate, low, high: the difference and its 95 % interval, family-wise where several are compared.
        verdict: better, worse, different, no difference shown, no verdict, not comparable, baseline.
        why: a sentence: the method, or why it is not comparable.
        seeds, examples: how many of each it rests on.
        only_these_runs: one seed each: the verdict is about these two runs, not their settings.
        note: what the reader of the means beside it must know; empty where they say the same.
    """

    estimate: float | None
    low: float | None
    high: float | None
    verdict: str
    why: str
    seeds: int = 0
    examples: int = 0
    only_these_runs: bool = False
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """All a report shows.

    Attributes:
        title, question, read: of the sweep, or the folders compared; the last two may be empty.
        metrics: the compared ones, the most important first; each has mean and sd in `means`.
        variants: the baseline first, the others in order of the first metric.
        means: per variant (same order), metric to (mean, sd over seeds or None, finished seeds with it).
        differences: per variant, metric to its difference to the baseline.
        directions: metric to lower, higher, neither, or empty where it is not known which is better.
        notes: sentences that the reader must know, such as examples that only some runs share.
    """

    title: str
    question: str
    read: str
    metrics: tuple[str, ...]
    variants: tuple[Variant, ...]
    means: tuple[dict[str, tuple[float, float | None, int]], ...]
    differences: tuple[dict[str, Difference], ...]
    directions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
