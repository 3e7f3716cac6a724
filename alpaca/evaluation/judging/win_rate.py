"""Win rate and standard error as AlpacaEval publishes them, from preferences in its encoding.

A preference is 1 where the baseline (`output_1`) wins, 2 where the model (`output_2`) wins, and any number
in between is a probability (version 2). 0 is an old way to write a draw, the same as 1.5; reading it as
a loss is a known mistake. A missing preference is left out.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from alpaca.evaluation.judging.intervals import standard_error

OLD_DRAW, DRAW = 0.0, 1.5


class NoPreference(ValueError):
    """Not a preference; the text says what is wrong with it."""


@dataclass(frozen=True)
class WinRate:
    """The published numbers; rates in per cent.

    Attributes:
        discrete_win_rate: wins plus half the draws, a preference on either side of 1.5 being a whole win.
    """

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int


def points_of(preference: Any) -> float | None:
    """What a preference counts for the model: from 0 (lost) to 1 (won), a draw 0.5; None where there is none.

    Raises:
        NoPreference: not a number, or outside [1, 2] and not 0.
    """
    if preference is None or (isinstance(preference, float) and math.isnan(preference)):
        return None
    if isinstance(preference, bool) or not isinstance(preference, (int, float)):
        raise NoPreference(f"preference {preference!r} is no number")
    if preference == OLD_DRAW:
        return DRAW - 1
    if not 1 <= preference <= 2:
        raise NoPreference(f"preference {preference} is neither from 1 to 2 nor 0")
    return float(preference) - 1


def win_rate(points: np.ndarray) -> WinRate:
    """The published numbers for `points` (n,), n at least 1.

    win rate = 100 × mean(points), standard error = 100 × sd(points; n - 1) / √n.
    """
    wins, losses = int(np.sum(points > 0.5)), int(np.sum(points < 0.5))
    draws, total = len(points) - wins - losses, len(points)
    return WinRate(
        win_rate=100 * float(np.mean(points)),
        standard_error=100 * standard_error(points),
        discrete_win_rate=100 * (wins + draws / 2) / total,
        n_wins=wins,
        n_wins_base=losses,
        n_draws=draws,
        n_total=total,
    )
