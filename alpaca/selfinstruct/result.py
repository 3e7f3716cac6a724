"""What a generation leaves for people and for training: rows, numbers, and a card that says where they come from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from alpaca import paths
from alpaca.config import GenerationConfig
from alpaca.data.diversity import Diversity, diversity
from alpaca.data.rows import Row
from alpaca.engines.budget import Budget
from alpaca.engines.prices import Prices
from alpaca.licences import UNKNOWN
from alpaca.selfinstruct.directories import DATASET
from alpaca.selfinstruct.judging import KEPT
from alpaca.selfinstruct.pipeline import Tally
from alpaca.tracking.run_directory import write_text

CARD = "data_card.md"
PAIRS_SHOWN = 12


@dataclass(frozen=True)
class Result:
    """The rows of a generation and everything counted on the way.

    Attributes:
        kept: tasks that count towards the target; `rows` may be more with several responses each.
        lost: rows that have no answer because their requests were lost; the next command asks for them again.
        licence: name and note of what is known about the licence of the rows.
    """

    rows: list[Row]
    kept: int
    filled: GenerationConfig
    tally: Tally
    budget: Budget
    prices: Prices | None
    requests: int
    licence: tuple[str, str]
    diversity: Diversity
    lost: int = 0

    def summary(self) -> dict[str, Any]:
        """The values of `summary.json`."""
        budget, tally = self.budget, self.tally
        return {
            "kept": self.kept,
            "target": self.filled.target if self.filled.target is not None else self.kept,
            "rows": len(self.rows),
            "rows_lost": self.lost,
            "candidates": tally.candidates,
            "acceptance": round(tally.acceptance, 4),
            "verdicts": dict(tally.verdicts.most_common()),
            "requests_sent": self.requests,
            "requests_answered": tally.answered,
            "requests_lost": tally.unanswered,
            "responses_missing": tally.missing,
            "prompt_tokens": budget.spent.prompt_tokens,
            "completion_tokens": budget.spent.completion_tokens,
            "lost_prompt_tokens": budget.lost.prompt_tokens,
            "lost_completion_tokens": budget.lost.completion_tokens,
            "cost_usd": self._dollars(lost=False),
            "lost_usd": self._dollars(lost=True),
            "prices": self.prices.source if self.prices else None,
            "engine": self.filled.engine,
            "model": self.filled.model,
            "license": self.licence[0],
            "license_note": self.licence[1],
            "diversity": {
                "with_verb": self.diversity.with_verb,
                "verbs": self.diversity.verbs,
                "objects": self.diversity.objects,
                "pairs": self.diversity.pairs,
            },
        }

    def write(self, folder: Path, dates: tuple[str, str], status: str, signature: str) -> None:
        """`dataset.json` in Alpaca's format and `data_card.md`."""
        records = [{"instruction": row.instruction, "input": row.input, "output": row.output} for row in self.rows]
        write_text(folder / DATASET, json.dumps(records, ensure_ascii=False, indent=1) + "\n")
        write_text(folder / CARD, self.card(dates, status, signature))

    def card(self, dates: tuple[str, str], status: str, signature: str) -> str:
        """The data card, Markdown."""
        filled, found, tally = self.filled, self.summary(), self.tally
        where = f"{filled.engine}" + (f" at {urlparse(filled.base_url).netloc}" if filled.base_url else "")
        how = {
            "self_instruct": f"new tasks from {filled.seed_examples} seeds and {filled.machine_examples} made tasks a "
            f"request, prompt `{filled.prompt}`",
            "reanswer": f"new outputs for the rows of `{filled.path}`",
            "evolve": f"variants of the rows of `{filled.path}`",
        }[filled.mode]
        cost = "not known: no price for this model" if self.prices is None else f"${found['cost_usd']:.4f}"
        lost = "" if not self.prices else f" (${found['lost_usd']:.4f})"
        missing = f"; {tally.missing:,} responses asked for did not come" if tally.missing else ""
        facts = [
            ("rows", f"{len(self.rows):,} ({self.kept:,} tasks of {found['target']:,} wanted)"),
            ("status", status),
            ("model", f"`{filled.model}`, {where}"),
            ("made by", how),
            ("sampling", f"temperature {filled.temperature}, top_p {filled.top_p}, at most {filled.max_tokens} tokens"),
            ("made", dates[0] if dates[0] == dates[1] else f"{dates[0]} to {dates[1]}"),
            ("requests", f"{self.requests:,} sent, {tally.answered:,} used, {tally.unanswered:,} lost{missing}"),
            (
                "tokens",
                f"{self.budget.spent.prompt_tokens:,} prompt, {self.budget.spent.completion_tokens:,} completion",
            ),
            ("lost tokens at most", f"{self.budget.lost.total:,}{lost}"),
            ("cost", cost + (f"; prices: {self.prices.source}" if self.prices else "")),
            ("novelty", f"ROUGE-L F at most {filled.rouge_threshold} to every seed and every kept instruction")
            if filled.mode != "reanswer"
            else ("novelty", "not asked for: the instructions are given"),
            ("licence", f"{self.licence[0]}: {self.licence[1]}"),
            ("signature", f"`{signature}`"),
        ]
        lines = ["# Data card", "", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts), ""]
        lines += ["## Candidates", "", "| verdict | candidates |", "| --- | ---: |"]
        lines += [f"| {name} | {count:,} |" for name, count in tally.verdicts.most_common()]
        lines += [f"| all | {tally.candidates:,} |", "", f"{tally.acceptance:.1%} were kept.", ""]
        return "\n".join([*lines, *self._diversity_lines(), *self._length_lines()])

    def _diversity_lines(self) -> list[str]:
        found = self.diversity
        lines = [
            "## Diversity",
            "",
            f"By a rule for English, {found.with_verb:,} of {found.instructions:,} instructions have a root verb: "
            f"{found.verbs:,} verbs, {found.objects:,} objects, {found.pairs:,} pairs.",
            "",
            "| verb | object | rows |",
            "| --- | --- | ---: |",
        ]
        return [
            *lines,
            *(f"| {verb} | {item} | {count:,} |" for verb, item, count in found.most_frequent[:PAIRS_SHOWN]),
            "",
        ]

    def _length_lines(self) -> list[str]:
        if not self.rows:
            return []
        with_input = sum(bool(row.input.strip()) for row in self.rows) / len(self.rows)
        words = {name: _mean_words(self.rows, name) for name in ("instruction", "output")}
        return [
            "## Lengths",
            "",
            f"{words['instruction']:.1f} words an instruction, {words['output']:.1f} an output; {with_input:.0%} of "
            "the rows have an input.",
            "",
        ]

    def _dollars(self, *, lost: bool) -> float | None:
        if self.prices is None:
            return None
        return round(self.prices.cost(self.budget.lost if lost else self.budget.spent), 6)


def licence_of(filled: GenerationConfig) -> tuple[str, str]:
    """Name and note of the licence of what a model writes, as far as it is known."""
    if filled.engine in ("local", "vllm"):
        file = paths.conf_dir() / "model" / f"{filled.model}.yaml"
        if file.is_file():
            stated = str(yaml.safe_load(file.read_text(encoding="utf-8")).get("license") or UNKNOWN)
            return stated, f"written by {filled.model}, whose weights are under {stated}"
        return UNKNOWN, f"written by {filled.model}: see what the licence of its weights says about outputs"
    host = urlparse(filled.base_url).hostname if filled.base_url else "api.openai.com"
    if host == "api.openai.com":
        note = "written by an OpenAI model: OpenAI's terms of use apply, which restrict training competing models on it"
        return UNKNOWN, note
    return UNKNOWN, f"written by {filled.model} at {host}: see that server's terms and the licence of the model"


def diversity_of(rows: Sequence[Row]) -> Diversity:
    """Diversity of the instructions, each once however many responses it has."""
    return diversity(dict.fromkeys(row.instruction for row in rows))


def acceptance_by_verdict(tally: Tally) -> list[tuple[str, int, float]]:
    """(verdict, candidates, share), the kept ones first."""
    total = max(1, tally.candidates)
    order = sorted(tally.verdicts.items(), key=lambda item: (item[0] != KEPT, -item[1], item[0]))
    return [(name, count, count / total) for name, count in order]


def _mean_words(rows: Sequence[Row], name: str) -> float:
    return sum(len(getattr(row, name).split()) for row in rows) / len(rows)
