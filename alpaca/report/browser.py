"""The examples of a page: prompt, reference and every variant's answer, in plain elements that page.js sorts and hides.

Nothing of it is data for a script to turn into elements: what a model wrote is only ever text.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from alpaca.evaluation.scores import HIGHER, LOWER
from alpaca.report.pair import mean_scores
from alpaca.report.records import Comparison
from alpaca.report.wording import clipped, mark, shown

EXAMPLES = 128  # shown at most
CLIPS = (1500, 700, 300)  # characters of a text: the longest that keeps within BUDGET
BUDGET = 1_200_000  # bytes of all examples
EXCERPT = 110  # characters of a prompt in its heading
OPEN = 3  # examples that are open at first
SIGNS = {LOWER: -1, HIGHER: 1}  # what a gain is; 0 where neither way is better


@dataclass(frozen=True)
class _Example:
    name: str
    prompt: str
    reference: str
    answers: tuple[str | None, ...]  # of each variant
    scores: tuple[tuple[float | None, ...], ...]  # of each variant, in the order of the metrics


def browser(comparison: Comparison) -> str:
    """The section, or nothing where no run has texts."""
    metrics = [name for name in comparison.metrics if any(mean_scores(each, name) for each in comparison.variants)]
    every = _examples(comparison, metrics)
    if not every:
        return ""
    examples = every[:EXAMPLES]
    heads = _heads(examples)
    clip, blocks = CLIPS[-1], [""]
    for clip in CLIPS:
        blocks = [_block(comparison, metrics, each, heads[each.name], clip) for each in examples]
        if sum(map(_bytes, blocks)) <= BUDGET:
            break
    kept, size = 0, 0
    for block in blocks:
        size += _bytes(block)
        if size > BUDGET:
            break
        kept += 1
    blocks = [
        block.replace("<details", "<details open", 1) if n < OPEN else block for n, block in enumerate(blocks[:kept])
    ]
    number = (
        f"All {kept} examples"
        if kept == len(every)
        else f"{kept} of {len(every):,} examples, so that the page stays small"
    )
    seeds = "; answers are those of the first seed, scores are means over seeds" if _seeds(comparison) else ""
    return f"""<section aria-labelledby="examples"><h2 id="examples">Examples</h2>
<p class="soft">{number}: those whose scores differ most between variants come first{seeds}. Texts longer than
{clip:,} characters are cut.</p>
{_controls(comparison, metrics)}
<div id="list">
{"".join(blocks)}</div></section>"""


def _controls(comparison: Comparison, metrics: Sequence[str]) -> str:
    """Hidden until the script shows them; without it all answers stand below each other."""
    names = [f"{mark(index)} {each.label}" for index, each in enumerate(comparison.variants)]
    second = 1 if len(names) > 1 else 0
    first_options, second_options = (
        "".join(
            f'<option value="{index}"{" selected" if index == chosen else ""}>{shown(name)}</option>'
            for index, name in enumerate(names)
        )
        for chosen in (0, second)
    )
    signs = [SIGNS.get(comparison.directions.get(name, ""), 0) for name in metrics]
    scores = "".join(
        f'<option value="{index}" data-sign="{sign}">{shown(name)}</option>'
        for index, (name, sign) in enumerate(zip(metrics, signs, strict=True))
    )
    by_score = (
        f"""<label>Score <select id="metric">{scores}</select></label>
<label>Order <select id="order"><option value="page">largest difference</option>
<option value="gain">gain of the second</option>
<option value="loss">loss of the second</option></select></label>"""
        if metrics
        else ""
    )
    return f"""<noscript><p class="soft">Filtering, sorting and choosing two variants need JavaScript; all answers are
below without it.</p></noscript>
<div class="controls" id="controls" hidden>
<label>Find in prompts and answers <input type="search" id="find" autocomplete="off"></label>
<label>First variant <select id="first">{first_options}</select></label>
<label>Second variant <select id="second">{second_options}</select></label>
{by_score}
</div>
<p class="soft" id="count" role="status"></p>"""


def _block(comparison: Comparison, metrics: Sequence[str], example: _Example, head: str, clip: int) -> str:
    answers = "".join(
        f'<div class="answer" data-variant="{index}" data-scores="{_numbers(example.scores[index])}">'
        f'<h3><span class="mark v{index % 8}">{mark(index)}</span> {shown(each.label)}</h3>'
        f"{_scores(metrics, example.scores[index])}{_answer(example.answers[index], clip)}</div>"
        for index, each in enumerate(comparison.variants)
        if example.answers[index] is not None or any(value is not None for value in example.scores[index])
    )
    return (
        f'<details class="example"><summary><span class="gain"></span>{shown(head)}</summary>'
        f'<p class="soft">Prompt, id <code>{shown(clipped(example.name, 80))}</code></p>{_text(example.prompt, clip)}'
        f'<p class="soft">Reference</p>{_text(example.reference, clip)}'
        f'<div class="answers">{answers}</div></details>\n'
    )


def _answer(text: str | None, clip: int) -> str:
    return '<p class="soft">(no answer was generated)</p>' if text is None else _text(text, clip)


def _text(text: str | None, clip: int) -> str:
    if not text:
        return '<p class="soft">(empty)</p>'
    return f'<pre dir="auto">\n{shown(clipped(text, clip))}</pre>'  # a parser drops the first newline, not the text's


def _scores(metrics: Sequence[str], values: Sequence[float | None]) -> str:
    known = [f"{name} {value:.4f}" for name, value in zip(metrics, values, strict=True) if value is not None]
    return f'<p class="soft">{shown(", ".join(known))}</p>' if known else ""


def _numbers(values: Sequence[float | None]) -> str:
    return ",".join("" if value is None else f"{value:.6g}" for value in values)


def _examples(comparison: Comparison, metrics: Sequence[str]) -> list[_Example]:
    """Those that any variant has texts of; the largest differences on the first metric first."""
    texts = [each.finished[0].texts if each.finished else {} for each in comparison.variants]
    scores = [{metric: mean_scores(each, metric) for metric in metrics} for each in comparison.variants]
    found = []
    for name in sorted({name for each in texts for name in each}):
        mine = [each.get(name, {}) for each in texts]
        found.append(
            _Example(
                name,
                next((str(text) for each in mine if (text := each.get("prompt"))), ""),
                next((str(text) for each in mine if (text := each.get("reference"))), ""),
                tuple(None if (text := each.get("output")) is None else str(text) for each in mine),
                tuple(tuple(each[metric].get(name) for metric in metrics) for each in scores),
            )
        )
    return sorted(found, key=lambda each: (-_spread(each), each.name))


def _spread(example: _Example) -> float:
    values = [each[0] for each in example.scores if each and each[0] is not None]
    return max(values) - min(values) if values else 0.0


def _heads(examples: Sequence[_Example]) -> dict[str, str]:
    """For each example the first line of its prompt that is not the template's: one that few prompts have."""
    lines = {each.name: [line.strip() for line in each.prompt.splitlines() if line.strip()] for each in examples}
    counts = Counter(line for each in lines.values() for line in set(each))
    most = max(1, len(examples) // 8)
    heads = {}
    for name, mine in lines.items():
        head = next((line for line in mine if counts[line] <= most), mine[0] if mine else "(no prompt)")
        heads[name] = head if len(head) <= EXCERPT else f"{head[:EXCERPT]}…"
    return heads


def _seeds(comparison: Comparison) -> bool:
    return any(len(each.finished) > 1 for each in comparison.variants)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8"))
