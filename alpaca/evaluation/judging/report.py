"""From judged pairs to numbers, a few lines for the terminal, and a record for each example. Pure."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alpaca.evaluation.judging.biases import consistency, lengths, longer_wins, position_bias
from alpaca.evaluation.judging.intervals import Estimate, share_interval
from alpaca.evaluation.judging.length_control import LengthControl, length_control, length_feature
from alpaca.evaluation.judging.pairs import Judged, full_instruction
from alpaca.evaluation.judging.score_files import Ratio
from alpaca.evaluation.judging.win_rate import WinRate, win_rate
from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER

PREFIX = "eval/judge/"
FEWEST_FOR_A_PART = 2
DIRECTIONS = {  # the first that fits; all other numbers are about the judge, or count something
    f"{PREFIX}win_rate*": HIGHER,
    f"{PREFIX}discrete_win_rate": HIGHER,
    f"{PREFIX}length_controlled_win_rate*": HIGHER,
    f"{PREFIX}score_ratio_standard_error": NEITHER,
    f"{PREFIX}score_ratio*": HIGHER,
    f"{PREFIX}cost_usd": LOWER,
    f"{PREFIX}*": NEITHER,
}


@dataclass(frozen=True)
class Report:
    """All that is said about one comparison; shares and rates in per cent.

    Attributes:
        rate: as AlpacaEval publishes it.
        interval: the win rate's 95 % interval over pairs.
        parts: the same for each data set, where there are several.
        incomplete: pairs that do not count, since a judgement is missing; `unread` and `lost` say how many are.
        same: pairs with equal texts, drawn without asking.
    """

    rate: WinRate
    interval: Estimate
    parts: dict[str, tuple[WinRate, Estimate]]
    position: Estimate | None
    consistency: float | None
    length: LengthControl | None
    longer_wins: Estimate | None
    avg_length: float
    avg_length_baseline: float | None
    judgements: int
    incomplete: int
    unread: int
    lost: int
    same: int

    def metrics(self) -> dict[str, float]:
        """Whole names to numbers; what could not be computed is left out."""
        values: dict[str, float | None] = {**asdict(self.rate), **_bounds("win_rate", self.interval)}
        for name, (rate, interval) in self.parts.items():
            values[f"win_rate/{name}"] = rate.win_rate
            values[f"standard_error/{name}"] = rate.standard_error
            values |= {f"{key}/{name}": value for key, value in _bounds("win_rate", interval).items()}
        if self.position is not None:
            values |= {"position_bias": self.position.value, **_bounds("position_bias", self.position)}
        if self.length is not None:
            share = self.length.share.scaled(100)
            values |= {"length_controlled_win_rate": share.value, **_bounds("length_controlled_win_rate", share)}
            values["length_controlled_standard_error"] = share.standard_error
            values |= {"length_effect": self.length.effect.value, **_bounds("length_effect", self.length.effect)}
        if self.longer_wins is not None:
            longer = self.longer_wins.scaled(100)
            values |= {"longer_wins": longer.value, **_bounds("longer_wins", longer)}
        values |= {
            "consistency": None if self.consistency is None else 100 * self.consistency,
            "avg_length": self.avg_length,
            "avg_length_baseline": self.avg_length_baseline,
            "judgements": self.judgements,
            "incomplete": self.incomplete,
            "unparseable": self.unread,
            "lost": self.lost,
            "same_outputs": self.same,
        }
        return {PREFIX + key: value for key, value in values.items() if value is not None and not math.isnan(value)}

    def lines(self) -> list[str]:
        """What the terminal shows."""
        rate = self.rate
        found = [
            f"win rate {_with_interval(rate.win_rate, self.interval)} %, standard error {rate.standard_error:.2f}; "
            f"{rate.n_wins:,} won, {rate.n_draws:,} drawn, {rate.n_wins_base:,} lost of {rate.n_total:,}"
        ]
        if self.length is not None:
            share = self.length.share.scaled(100)
            found.append(f"at equal length {_with_interval(share.value, share)} %")
        found += [
            f"  {name}: {_with_interval(part.win_rate, interval)} % of {part.n_total:,}"
            for name, (part, interval) in self.parts.items()
        ]
        bias = []
        if self.position is not None:
            bias.append(f"first position {_with_interval(self.position.value, self.position, sign='+')} points")
        if self.consistency is not None:
            bias.append(f"both orders agree in {100 * self.consistency:.1f} %")
        if self.longer_wins is not None:
            longer = self.longer_wins.scaled(100)
            bias.append(f"the longer answer gets {_with_interval(longer.value, longer)} %")
        if bias:
            found.append(f"the judge: {'; '.join(bias)}")
        if self.same:
            found.append(f"{self.same:,} pairs are two equal texts: draws, nobody was asked")
        missing = [
            f"{count:,} {what}" for count, what in ((self.unread, "have no verdict"), (self.lost, "were lost")) if count
        ]
        if missing:
            found.append(
                f"{self.incomplete:,} of {self.incomplete + rate.n_total:,} pairs do not count: of "
                f"{self.judgements:,} judgements {' and '.join(missing)}"
            )
        return found


def report_of(judged: Sequence[Judged]) -> Report | None:
    """The report on all pairs; None where not one of them counts."""
    counted = [one for one in judged if one.points is not None]
    if not counted:
        return None
    parts: dict[str, list[Judged]] = defaultdict(list)
    for one in counted:
        parts[one.pair.dataset].append(one)
    judgements = [judgement for one in judged for judgement in one.judgements]
    with_lengths, model, baseline = lengths(judged)

    rate, interval = _rated(counted)
    several = len([name for name in parts if name]) > 1
    named = {name or "other": values for name, values in sorted(parts.items()) if len(values) >= FEWEST_FOR_A_PART}
    return Report(
        rate=rate,
        interval=interval,
        parts={name: _rated(values) for name, values in named.items()} if several else {},
        position=position_bias(judged),
        consistency=consistency(judged),
        length=length_control(length_feature(model, baseline), with_lengths) if len(with_lengths) else None,
        longer_wins=longer_wins(judged),
        avg_length=float(np.mean([len(one.pair.model) for one in counted])),
        avg_length_baseline=float(np.mean(baseline)) if len(baseline) else None,
        judgements=len(judgements),
        incomplete=len(judged) - len(counted),
        unread=sum(judgement.points is None and not judgement.lost for judgement in judgements),
        lost=sum(judgement.lost for judgement in judgements),
        same=sum(one.unasked for one in judged),
    )


def _rated(counted: Sequence[Judged]) -> tuple[WinRate, Estimate]:
    """The published rate over all judgements; the interval over pairs, of which one may have been judged repeatedly."""
    by_pair: dict[str, list[float]] = defaultdict(list)
    for one in counted:
        if one.points is not None:
            by_pair[one.pair.id].append(one.points)
    means = np.array([sum(points) / len(points) for points in by_pair.values()])
    times = np.array([len(points) for points in by_pair.values()], dtype=float)
    every = np.array([value for points in by_pair.values() for value in points])
    return win_rate(every), share_interval(means, times).scaled(100)


def ratio_metrics(ratio: Ratio) -> dict[str, float]:
    """Metrics of scores from 1 to 10."""
    values = {
        "score_ratio": ratio.mean.value,
        "score_ratio_standard_error": ratio.mean.standard_error,
        **_bounds("score_ratio", ratio.mean),
        "score_ratio_model_first": ratio.model_first,
        "score_ratio_model_second": ratio.model_second,
    }
    return {PREFIX + key: value for key, value in values.items() if not math.isnan(value)}


def ratio_line(ratio: Ratio) -> str:
    """What the terminal shows of scores from 1 to 10."""
    orders = [
        f"{value:.1f} % with the model {where}"
        for where, value in (("first", ratio.model_first), ("second", ratio.model_second))
        if not math.isnan(value)
    ]
    hint = "" if len(orders) == 2 else "; one order only, so the position's bias is in it"
    return f"score {_with_interval(ratio.mean.value, ratio.mean)} % of the baseline's ({', '.join(orders)}){hint}"


def examples_of(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """A record for each task; where stored judgements are several, their points are averaged."""
    by_id: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_id[one.pair.id].append(one)
    records = []
    for known_as, several in by_id.items():
        pair = several[0].pair
        known = [one.points for one in several if one.points is not None]
        records.append(
            {
                "id": known_as,
                "prompt": full_instruction(pair.instruction, pair.input),
                "reference": None,
                "output": pair.model,
                "baseline": pair.baseline,
                "verdicts": [
                    {"model_first": one.model_first, "points": one.points, "reason": one.reason}
                    for each in several
                    for one in each.judgements
                ],
                "scores": {"win": sum(known) / len(known)} if known else {},
            }
        )
    return records


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    return {f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _with_interval(value: float, estimate: Estimate, sign: str = "") -> str:
    if math.isnan(estimate.low):
        return f"{value:{sign}.1f}"
    return f"{value:{sign}.1f} [{estimate.low:{sign}.1f}, {estimate.high:{sign}.1f}]"
