"""The plan in the terminal: what is trained, memory part by part, what fits where, the cheapest."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from alpaca.planning.devices import price_list
from alpaca.planning.estimate import Estimate
from alpaca.planning.memory import GIB
from alpaca.planning.parameters import FULL
from alpaca.planning.plan import Plan, Row
from alpaca.planning.published import FACTOR, RUNS, padded_hours
from alpaca.planning.variants import Choice

SMALL_MODEL = 10**9
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits and their gradients",
    "workspace": "workspace",
    "process": "the process itself",
}


def render(plan: Plan) -> Iterator[RenderableType]:
    """What to print, in order."""
    yield _what(plan)
    if plan.generation is not None:
        yield _heading("making the data")
        yield _generation(plan)
    yield _heading(f"memory of one device: {where(plan.here)}")
    yield _memory(plan)
    yield _heading("devices")
    yield _devices(plan)
    yield _notes(plan)
    yield _heading("the cheapest that fits")
    yield _cheapest(plan)


def _heading(text: str) -> Padding:
    return Padding(Rule(Text(text, style="bold"), align="left", style="dim"), (1, 0, 0, 0))


def _what(plan: Plan) -> Table:
    """Rows, steps, tokens, weights."""
    config, mine, counts = plan.config, plan.here, plan.counts
    steps = mine.schedule
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    share = mine.parameters.trained / mine.parameters.total
    grid.add_row(
        "model",
        f"{config.model.name}, adapter {config.adapter.name}: {mine.parameters.trained:,} of "
        f"{mine.parameters.total:,} parameters trained ({share:.2%})",
    )
    grid.add_row(
        "data",
        f"{config.data_source.name}: {counts.examples:,} examples, {counts.held_out:,} rows held out; {counts.source}",
    )
    train = config.train
    grid.add_row(
        "steps",
        f"{steps.steps:,} of {train.global_batch_size} examples, {train.epochs:g} epochs{_original(plan)}",
    )
    about = "" if steps.exact else "about "
    looked = "" if steps.exact or not counts.exact else f" (from {steps.looked_at} of the steps)"
    grid.add_row(
        "tokens",
        f"{about}{steps.logical:,} logical, {steps.executed:,} executed, {steps.supervised:,} supervised{looked}",
    )
    grid.add_row("operations", f"{mine.operations:.2e} in all")
    return grid


def _original(plan: Plan) -> str:
    """How Stanford's script would round the number of steps."""
    steps, train = plan.here.schedule, plan.config.train
    if train.max_steps is not None or steps.original_steps == steps.steps:
        return ""
    each = plan.counts.examples // train.global_batch_size
    return f" (the original's loop: {steps.original_steps:,}, {each:,} whole batches of each epoch, its rest left out)"


def _memory(plan: Plan) -> Table:
    mine = plan.here
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_column(style="dim")
    train = plan.config.train
    said = {
        "activations": f"micro-batches of up to {mine.schedule.largest:,} tokens, "
        f"checkpointing {train.activation_checkpointing}",
        "optimizer": plan.config.optimizer.name,
        "workspace": "copies in the compute precision, gathered layers, temporaries",
    }
    for name, shown in PARTS.items():
        grid.add_row(shown, f"{getattr(mine.memory, name) / GIB:.2f} GiB", said.get(name, ""))
    short = "" if mine.fits else "  [bold red]does not fit[/]"
    each = mine.devices // mine.nodes
    several = f" for {each} processes" if mine.device.is_cpu and each > 1 else ""
    grid.add_row(
        "[bold]together[/]",
        f"[bold]{mine.needed_gib:.2f} GiB[/]",
        f"of {mine.device.memory_gib:.1f}{several}{short}",
    )
    if plan.here_change is not None:
        grid.add_row("it fits with", "", _typed(plan.here_change))
    grid.add_row("micro-batches a step", f"{mine.schedule.micro_batches:.1f}", "on each device, the mean")
    grid.add_row("training", duration(mine.hours), mine.device.assumption(mine.precision))
    return grid


def _devices(plan: Plan) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("device")
    shown.add_column("GiB", justify="right")
    for count in plan.rows[0].plans:
        shown.add_column(f"{count} device{'s' if count > 1 else ''}")
    if any(row.change is not None for row in plan.rows):
        shown.add_column("the nearest change that fits")
    for row in plan.rows:
        shown.add_row(
            row.device.name,
            f"{row.device.memory_gib:.0f}",
            *(_cell(found) for found in row.plans.values()),
            *([_change(row)] if any(other.change is not None for other in plan.rows) else []),
        )
    return shown


def _cell(found: Estimate) -> Text:
    if not found.fits:
        return Text(f"needs {found.needed_gib:.0f} GiB", style="red")
    cost = "" if found.dollars is None else f", {money(found.dollars)}"
    return Text(f"{found.needed_gib:.0f} GiB, {duration(found.hours, short=True)}{cost}")


def _change(row: Row) -> str:
    if any(found.fits for found in row.plans.values()):
        return ""
    return "none" if row.change is None else _typed(row.change)


def _notes(plan: Plan) -> Text:
    config, lines = plan.config, []
    if config.parallelism.sharding == "none" and len(plan.rows[0].plans) > 1:
        lines.append("Several devices: a copy of the model on each, parallelism=ddp.")
    elif len(plan.rows[0].plans) > 1:
        lines.append(f"Several devices: parallelism={config.parallelism.name}; one: parallelism=single.")
    shares = sorted({f"{row.device.mfu:.0%}" for row in plan.rows})
    lines.append(
        f"Speed is assumed: {shares[0]} to {shares[-1]} of the peak by device, --mfu sets another; training alone, "
        "without scoring and saving. Memory: see docs/planning.md for how far it is off."
    )
    lines += _against_published(plan)
    if plan.here.parameters.base < SMALL_MODEL:
        lines.append("A model this small keeps no GPU busy: on GPUs expect several times these hours.")
    lines.append(f"Prices: {price_list()}.")
    return Text("\n".join(["", *lines]), style="dim")


def _against_published(plan: Plan) -> list[str]:
    """What the hours stand on, and the same training by the loop whose times are published."""
    row = next((row for row in plan.rows if row.device.name == RUNS[0].device), None)
    if row is None or plan.config.adapter.kind != FULL or plan.here.parameters.base < SMALL_MODEL:
        return []
    devices, ours = max(row.plans.items())
    usual = padded_hours(plan.config, ours.parameters, plan.counts, ours.schedule, row.device, devices)
    rows = "packed rows" if plan.config.train.packing == "on" else "padded rows of like length"
    share = ours.operations / (ours.hours * 3600 * devices * row.device.peak_tflops * 1e12)
    name = f"{devices} x {row.device.name}"
    return [
        f"Hours are of this project's loop ({rows}, logits of labelled positions alone), not yet measured on a GPU: on "
        f"{name} {duration(ours.hours)}, {share:.0%} of the peak with exchanges. The usual loop (rows padded in fours, "
        f"all logits) would take about {duration(usual)} there, within a factor of {FACTOR:g}: calibrated with the "
        "original's 3 hours on 8 A100 (5% of the peak) and a log of the same command on 4 (4,745 s, 21%)."
    ]


def _cheapest(plan: Plan) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row(
        "the same experiment", "nothing fits on the devices of the table" if plan.same is None else _offer(plan.same)
    )
    if plan.other is not None:
        grid.add_row("another adapter", _offer(plan.other))
    return grid


def _offer(choice: Choice) -> str:
    found = choice.estimate
    return (
        f"{found.devices} x {found.device.name}: {duration(found.hours)}, {money(found.dollars or 0)}, "
        f"{found.needed_gib:.0f} GiB each; {_typed(choice)}"
    )


def _typed(choice: Choice) -> str:
    """What to type for a choice."""
    return " ".join(choice.variant.overrides) or "as it is"


def _generation(plan: Plan) -> str:
    cost = plan.generation
    assert cost is not None
    price = "no price" if cost.dollars is None else money(cost.dollars)
    return (
        f"{cost.target:,} tasks from {cost.model}: about {cost.requests:,} requests, {cost.prompt_tokens:,} prompt and "
        f"{cost.completion_tokens:,} completion tokens, {price} ({cost.prices}). Assumed: {cost.assumptions}."
    )


def where(found: Estimate) -> str:
    """The devices of a plan, in words."""
    name = "this machine's processor" if found.device.is_cpu else found.device.name
    each = found.devices // found.nodes
    if found.device.is_cpu:
        return f"{name}, {each} processes" if each > 1 else name
    return f"{found.devices} x {name}" if found.devices > 1 else name


def money(dollars: float) -> str:
    """Dollars, to the cent below a hundred."""
    if 0 < dollars < 0.01:
        return "<$0.01"
    return f"${dollars:,.2f}" if dollars < 100 else f"${dollars:,.0f}"


def duration(hours: float, *, short: bool = False) -> str:
    """Hours as people say them."""
    minutes = hours * 60
    if minutes < 1:
        return "<1 min" if short else "under a minute"
    if minutes < 90:
        return f"{minutes:.0f} {'min' if short else 'minutes' if minutes >= 1.5 else 'minute'}"
    if hours < 48:
        return f"{hours:.1f} {'h' if short else 'hours'}"
    return f"{hours / 24:.1f} {'d' if short else 'days'}"
