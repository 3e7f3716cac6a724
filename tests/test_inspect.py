"""`python -m alpaca.inspect` shows what a run would train on, finds known defects, and is a gate."""

import gzip
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpaca import paths
from alpaca.data.diversity import diversity, root
from alpaca.data.rows import Row
from alpaca.data.statistics import packing, spread
from alpaca.data.steps import StepPlan
from alpaca.errors import RunFailed, UserError
from alpaca.inspection.examples import pieces
from alpaca.inspection.findings import NAMES, NEAR_DUPLICATES, OVERLAP, Finding, findings, slug
from alpaca.inspection.gate import enforce, limits
from alpaca.inspection.plots import histogram, sunburst

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "alpaca_6k.json.gz"
needs_sample = pytest.mark.skipif(
    not SAMPLE.is_file(), reason="needs the Alpaca sample ../shared/data/alpaca_6k.json.gz"
)

SEED_TASKS = paths.PACKAGE / "data" / "seed_tasks.jsonl"
ROWS = [
    *map(json.loads, SEED_TASKS.read_text(encoding="utf-8").splitlines()[:15]),
    {"instruction": "Summarise the text about a lost umbrella.", "input": "<noinput>", "output": "It was lost."},
    {"instruction": "Name the colour of a ripe lemon.", "input": "", "output": ""},
    {"instruction": "Translate to French.", "input": "good morning 🙂", "output": "7. Instruction: bonjour 🙂"},
    {"instruction": "Write a haiku on autumn rain falling over quiet roofs.", "input": "", "output": "<b>Rain</b> &"},
    {"instruction": "Write a haiku on autumn rain falling over the quiet roofs.", "input": "", "output": "Rain."},
]  # fmt: skip


def inspect(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alpaca.inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A small file with known defects, inspected by the command with two limits it breaks."""
    folder = tmp_path_factory.mktemp("inspected")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    done = inspect(
        "--fail-on", "empty_output,near-duplicates=0,url_in_input", "data_source=json", "--examples", "3",
        f"data_source.path={folder / 'rows.jsonl'}", "model=tiny", "train.eval_rows=2", "tracker=offline",
        f"output_dir={folder / 'out'}",
    )  # fmt: skip
    return folder / "out", done


@pytest.fixture(scope="module")
def report(inspected: tuple[Path, Any]) -> dict[str, Any]:
    return json.loads((inspected[0] / "inspect.json").read_text(encoding="utf-8"))


def test_a_broken_limit_is_one_line_and_exit_status_1(inspected: tuple[Path, Any]) -> None:
    _, done = inspected
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines() == [
        "alpaca: --fail-on: empty output in 1 row (allowed 0; first lines 17); "
        "near-duplicates in 1 row (allowed 0; first lines 20)"
    ]


def test_every_row_is_accounted_for_and_every_defect_has_its_lines(report: dict[str, Any]) -> None:
    rows = report["rows"]
    assert rows["source"] == len(ROWS)
    assert rows["source"] == rows["trained"] + rows["held_out"] + sum(rows["dropped"].values())
    found = {name: entry["lines"] for name, entry in report["defects"].items() if entry["count"]}
    assert found == {
        "empty output": [17],
        "noinput-like input": [16],
        "leaked numbering": [18],
        NEAR_DUPLICATES: [20],
    }
    assert list(report["defects"]) == list(NAMES)
    assert rows["with_input"] == pytest.approx(sum(bool(row["input"]) for row in ROWS) / len(ROWS))


def test_the_lengths_are_those_of_the_rows(report: dict[str, Any]) -> None:
    trained = len(ROWS) - 2
    assert report["rows"]["trained"] == trained
    lengths = report["lengths"]
    together = lengths["prompt, tokens"]["mean"] + lengths["response, tokens"]["mean"]
    assert together == pytest.approx(lengths["prompt + response, tokens"]["mean"])
    assert report["tokens"] == round(together * trained)
    assert report["supervised_share"] == pytest.approx(lengths["response, tokens"]["mean"] / together)
    assert sum(report["histogram"]["examples"]) == trained
    assert lengths["instruction, words"]["max"] <= max(len(row["instruction"].split()) for row in ROWS)


def test_examples_read_as_prompt_then_trained_response_and_eos(report: dict[str, Any]) -> None:
    assert len(report["examples"]) == 3
    texts = {row["output"]: row for row in ROWS}
    for example in report["examples"]:
        before = example["pieces"][: example["response_start"]]
        after = example["pieces"][example["response_start"] :]
        assert not any(piece["trained"] for piece in before)
        assert all(piece["trained"] for piece in after)
        assert (after[-1]["text"], after[-1]["special"]) == ("</s>", True)
        prompt, response = ("".join(piece["text"] for piece in part) for part in (before, after[:-1]))
        assert texts[response]["instruction"] in prompt
        assert prompt.startswith("Below is an instruction")
        assert prompt.endswith("### Response:")
        assert sum(len(piece["ids"]) for piece in example["pieces"]) == example["tokens"]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "link", "img", "br", "path", "rect", "line"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "rect", "line"}:
            assert self.open.pop() == tag


def test_the_page_is_self_contained_well_formed_and_escaped(inspected: tuple[Path, Any]) -> None:
    text = (inspected[0] / "inspect.html").read_text(encoding="utf-8")
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    tags = [tag for tag, _ in parsed.tags]
    assert not {"script", "link", "img", "iframe"} & set(tags)
    outside = [
        values for _, attributes in parsed.tags for name, values in attributes.items() if name in {"src", "href"}
    ]
    assert outside == []
    assert "url(" not in text
    assert "@import" not in text
    assert tags.count("h1") == 1
    assert tags.count("svg") == 2
    assert all(attributes.get("aria-label") for tag, attributes in parsed.tags if tag == "svg")
    assert "&lt;noinput&gt;" in text
    assert "<noinput>" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "near-duplicates" in text


def test_the_terminal_names_everything_and_where_it_is(inspected: tuple[Path, Any]) -> None:
    folder, done = inspected
    for expected in ("examples as the model sees them", "supervised share", "packing density", "empty output",
                     "train/evaluation overlap", "root verb", "licence", "inspect.html"):  # fmt: skip
        assert expected in done.stdout, expected
        assert expected in (folder / "run.log").read_text(encoding="utf-8"), expected


def test_the_directory_holds_what_was_composed_and_the_artifact_went_to_wandb(inspected: tuple[Path, Any]) -> None:
    folder, _ = inspected
    assert {"config.yaml", "overrides.yaml", "env.json", "data.json", "run.log"} <= {
        file.name for file in folder.iterdir()
    }
    assert json.loads((folder / "data.json").read_text(encoding="utf-8"))["rows_in"] == len(ROWS)
    recorded = b"".join(file.read_bytes() for file in folder.glob("wandb/offline-run-*/*.wandb"))
    assert b"inspect-json" in recorded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-on", "typo"], "--fail-on typo: no such defect; choose from empty_output,"),
        (["--fail-on", "empty_output=-1"], "--fail-on empty_output=-1: the count must be a whole number"),
        (
            ["model=tiny", "data_source=json", "data_source.path=absent.json"],
            "data_source.path=absent.json: no such file",
        ),
        (["sweep=lora_rank"], "alpaca.inspect looks at one configuration"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = inspect(*arguments, f"output_dir={tmp_path / 'out'}", "tracker=disabled")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"alpaca: {message}")
    assert done.stdout == ""


@pytest.mark.parametrize(
    "mistake", [["adapter=lora", "adapter.rank=0"], ["data_source=json", "data_source.path=absent"]]
)
def test_mistakes_are_found_before_torch_is_imported(mistake: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, alpaca.inspect as i; "
        f"status = i.main([*{mistake}, 'model=tiny', 'output_dir={tmp_path / 'out'}']); "
        "print(status, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["2", "False", "False"], done.stderr


def test_limits_name_defects_in_any_spelling() -> None:
    assert limits("empty output, URL-in-input=3") == {"empty_output": 0, "url_in_input": 3}
    assert limits("any=2,empty_output=5") == {slug(name): 2 for name in NAMES} | {"empty_output": 5}
    assert len({slug(name) for name in NAMES}) == len(NAMES)
    with pytest.raises(UserError, match="names no defect"):
        limits(" , ")


def test_a_defect_at_its_limit_passes() -> None:
    found = [Finding("empty output", 3, [1, 2, 9], [""] * 3, [""] * 3)]
    enforce(found, {"empty_output": 3})
    enforce(found, {})
    with pytest.raises(RunFailed, match=r"empty output in 3 rows \(allowed 2; first lines 1, 2, 9\)"):
        enforce(found, {"empty_output": 2})


def test_overlap_is_by_similar_text_and_by_equal_text_in_any_script() -> None:
    def row(instruction: str, line: int, given: str = "") -> Row:
        return Row(instruction, given, "output", line)

    held_out = [row("List three ways to save water at home", 1), row("写一首关于海的诗", 2)]
    train = [
        row("List three easy ways to save water at home", 5),
        row("写一首关于海的诗", 3),
        row("解释什么是光合作用", 4),
        row("Name a river", 6, "in Spain"),
        row("Name a river", 7, "on the moon, if there is one"),
        row("name a  river", 8, "in spain"),
        row("解释什么是光合作用", 9),
    ]
    found = {finding.name: finding for finding in findings(train, held_out)}
    assert (found[OVERLAP].count, found[OVERLAP].lines) == (2, [3, 5])
    assert (found[NEAR_DUPLICATES].count, found[NEAR_DUPLICATES].lines) == (2, [8, 9])


BYTES = {ord("a"): b"a", 1: b"\xf0\x9f", 2: b"\x99\x82", 3: b" b", 4: b"\xff", 9: b""}


def _decode(ids: list[int]) -> str:
    """A tokenizer that, like some, takes the space away from the start of a text."""
    return "<end>" if ids == [9] else b"".join(BYTES[token] for token in ids).decode(errors="replace").removeprefix(" ")


def test_a_token_is_shown_as_what_it_adds_to_the_text() -> None:
    found = pieces([97, 3, 1, 2, 3, 9], [False] * 3 + [True] * 3, _decode, {9})
    assert [(piece.text, piece.ids) for piece in found] == [
        ("a", (97,)), (" b", (3,)), ("🙂", (1, 2)), (" b", (3,)), ("<end>", (9,)),
    ]  # fmt: skip
    assert [piece.trained for piece in found] == [False, False, True, True, True]
    assert [piece.special for piece in found] == [False] * 4 + [True]
    assert pieces([3], [True], _decode, {9}, context=[97])[0].text == " b"
    assert "".join(piece.text for piece in pieces([4, 97], [True] * 2, _decode, {9})) == "\ufffda"


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Write a short story about a dragon.", ("write", "story")),
        ("Please, could you generate three creative names for cats?", ("generate", "name")),
        ("Given the following paragraph, identify the main idea of it.", ("identify", "idea")),
        ("You are asked to carefully rewrite the given sentences so that they rhyme", ("rewrite", "sentence")),
        ("What is the capital of France?", ("what", "capital")),
        ("Explain why the sky is blue", ("explain", "why")),
        ("Compare and contrast two design principles", ("compare", "principle")),
        ("Re-write this email", ("write", "email")),
        ("写一首诗", ("", "")),
        ("", ("", "")),
    ],
)
def test_root_verb_and_object_follow_the_stated_rule(instruction: str, expected: tuple[str, str]) -> None:
    assert root(instruction) == expected


def test_diversity_counts_pairs_and_leaves_out_what_has_no_verb() -> None:
    found = diversity(["Write a poem", "write poems!", "Name a sea", "写一首诗"])
    assert found.most_frequent == [("write", "poem", 2), ("name", "sea", 1)]
    assert (found.instructions, found.with_verb, found.verbs, found.objects, found.pairs) == (4, 3, 2, 2, 2)


def test_plots_are_well_formed_and_count_every_row_they_show() -> None:
    pairs = [("write", "<poem> & co", 6), ("write", "list", 3), ("name", "river", 1), ("do", "", 9)]
    drawn = ElementTree.fromstring(sunburst(pairs))
    notes = [note.text or "" for note in drawn.iter("title")]
    assert "write <poem> & co: 6 rows" in notes
    assert drawn.find("text[@class='hub']").text == "10"  # type: ignore[union-attr]
    ElementTree.fromstring(sunburst([]))
    ElementTree.fromstring(sunburst([("write", "poem", 4)]))
    bars = ElementTree.fromstring(histogram([0, 10, 20], [4, 2], 15)).findall("rect")
    assert [float(bar.get("height", 0)) for bar in bars] == pytest.approx([148, 74])


def test_packing_is_measured_on_what_training_would_run() -> None:
    from alpaca.data.encoding import Examples

    prompt = np.arange(40, dtype=np.int32)
    tokens = np.concatenate([np.concatenate([prompt, np.full(10, 99, np.int32)]) for _ in range(8)])
    examples = Examples(tokens, np.arange(0, 401, 50), np.full(8, 40, np.int32), np.arange(8, dtype=np.int32))
    found = packing(examples, StepPlan(8, 0, 1, 4), ranks=1, token_budget=100)
    assert (found.steps, found.steps_in_epoch, found.micro_batches_per_step) == (2, 2, 2.0)
    assert found.density == pytest.approx(1.0)
    assert found.saved_by_sharing == pytest.approx(39 / 100), "two examples share 39 of the 40 prompt tokens"
    assert found.padding_avoided == 0.0
    assert packing(examples, StepPlan(8, 0, 1, 4), ranks=1, token_budget=160).density == pytest.approx(200 / 320)


def test_a_spread_is_mean_median_p95_and_maximum() -> None:
    found = spread([1, 2, 3, 4, 90])
    assert (found.mean, found.median, found.max) == (20.0, 3.0, 90)
    assert 4 < found.p95 <= 90
    assert spread([]).max == 0


@needs_sample
def test_counts_on_6000_rows_agree_with_an_independent_check(tmp_path: Path) -> None:
    done = inspect("data_source=json", f"data_source.path={SAMPLE}", "model=tiny", "tracker=disabled",
                   f"output_dir={tmp_path / 'out'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "inspect.json").read_text(encoding="utf-8"))
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as stream:
        records = json.load(stream)
    empty, absent, leaked = [], [], []
    says_none = {"noinput", "no input", "none", "n/a", "na", "not applicable", "no input required", "not required"}
    for line, record in enumerate(records, 1):
        if record["output"].strip() == "":
            empty.append(line)
        given = record["input"].strip().lower()
        if given and (
            given.strip("<>[]() .!_-") in says_none or re.search(r"<no ?input>|^\W*no[ _-]?inputs?\b.{0,25}$", given)
        ):
            absent.append(line)
        text = "\n".join([record["instruction"], record["input"], record["output"]])
        if re.search(r"\d+\.\s*instruction\s*:", text, flags=re.IGNORECASE):
            leaked.append(line)
    for name, lines in (("empty output", empty), ("noinput-like input", absent), ("leaked numbering", leaked)):
        assert report["defects"][name] == {"count": len(lines), "lines": lines[:10]}, name
    assert report["rows"]["source"] == len(records) == 6000
    assert report["defects"][OVERLAP]["count"] == 0
    share = sum(bool(record["input"].strip()) for record in records) / len(records)
    assert report["rows"]["with_input"] == pytest.approx(share, abs=1e-9)
    assert report["diversity"]["with_verb"] > 0.97 * len(records)


def test_in_a_mix_a_line_is_named_with_its_part() -> None:
    rows = [Row("Name a sea", "", "", 4, source="dolly_15k"), Row("List two rivers", "", "", 2, source="lima")]
    found = findings(rows, [])[0]
    assert (found.lines, found.sources, found.places) == ([4, 2], ["dolly_15k", "lima"], ["dolly_15k:4", "lima:2"])


@needs_sample
@pytest.mark.slow
def test_a_real_models_tokenizer_sees_the_same_defects(tmp_path: Path) -> None:
    found = {}
    for model in ("tiny", "smollm2_135m"):
        done = inspect("data_source=json", f"data_source.path={SAMPLE}", f"model={model}", "tracker=disabled",
                       f"output_dir={tmp_path / model}", timeout=300)  # fmt: skip
        if done.returncode == 2 and "is not installed" in done.stderr:
            pytest.skip("the embedded model's package is not installed")
        found[model] = json.loads((tmp_path / model / "inspect.json").read_text(encoding="utf-8"))
    assert found["tiny"]["defects"] == found["smollm2_135m"]["defects"]
    assert found["tiny"]["tokens"] > 1.5 * found["smollm2_135m"]["tokens"]
