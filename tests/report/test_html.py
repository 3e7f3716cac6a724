"""report.html: one page that shows every number, holds whatever a model wrote, and asks nothing of the network."""

import re
from html.parser import HTMLParser

import pytest
from comparisons import four_by_three, run, sweep

from alpaca.report import rows
from alpaca.report.curves import POINTS, curves
from alpaca.report.html import page
from alpaca.report.records import FAILED, MISSING, Comparison
from alpaca.report.wording import mark, shown

VOID = {"meta", "input", "br", "img", "link", "hr", "wbr"}
HOSTILE = (
    '<script>alert("ran")</script></script><img src=https://evil.example/x onerror=alert(1)>',
    "</pre></details></main></body><!-- <![CDATA[ `${alert(1)}` &amp; \" onmouseover='alert(2)'",
    "\u202eturned \ud800 half \x00 null \x1b[31m",
    "<" * 20_000,
)
LIMIT = 2_000_000


class Page(HTMLParser):
    """The elements of a page, their text and attributes; a tag that is closed wrongly is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"{tag}: an attribute comes twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> while {self.open} are open"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def four() -> Comparison:
    return four_by_three(HOSTILE)


@pytest.fixture(scope="module")
def text(four: Comparison) -> str:
    return page(four)


def test_what_a_model_wrote_is_only_ever_text(text: str) -> None:
    found = Page(text)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [tag for tag, _ in found.tags if tag in ("img", "iframe", "link", "object", "form", "base", "a")]
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert HOSTILE[0] in found.words
    assert " ".join(HOSTILE[1].split()) in found.words
    assert "\\x202eturned \\xd800 half \\x00 null \\x1b[31m" in found.words
    assert "<<<< … [18,500 more characters]" in found.words
    assert text.encode("utf-8").decode("utf-8") == text


def test_hostile_settings_errors_and_titles_are_escaped_too() -> None:
    bad = "</title></script><b onclick=x>\"'&"
    runs = [
        run(0, 0, examples=4, settings={"notes.a": bad}),
        run(1, 0, examples=4, settings={"notes.a": "fine"}),
        run(2, 0, status=FAILED, error=bad, settings={"notes.a": bad + "2"}),
    ]
    found = Page(page(sweep(runs, title=bad)))
    assert not [tag for tag, _ in found.tags if tag == "b"]
    assert found.words.count(bad) > 5


def test_the_page_asks_nothing_of_the_network(text: str) -> None:
    found = Page(text)
    links = ("src", "href", "xlink:href", "srcset", "action", "formaction", "data", "poster", "ping", "background")
    assert not [(tag, name) for tag, attributes in found.tags for name in attributes if name in links]
    own = re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", own)
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")
    assert "http" not in str(policy)


def test_every_number_of_the_tables_is_there(four: Comparison, text: str) -> None:
    words = Page(text).words
    for variant, means, differences in zip(four.variants, four.means, four.differences, strict=True):
        assert variant.label in words
        for metric in four.metrics:
            assert rows.mean_text(means[metric]) in words
            assert rows.difference_text(differences[metric]) in words
            assert rows.verdict_text(differences[metric]) in words
        for name, _ in rows.cost_columns(four):
            assert rows.cost_text(name, rows.cost(variant, name)) in words
    assert all(answer in words for answer in rows.answers(four))
    assert four.question in words
    assert four.read in words


def test_failed_and_missing_runs_are_rows_with_their_reason(four: Comparison, text: str) -> None:
    words = Page(text).words
    found = rows.troubles(four)
    assert {status for _, status, _ in found} == {FAILED, MISSING}
    for what, status, why in found:
        assert f"{what}✗ {status}{why}" in words
    assert all(note in words for note in four.notes)


def test_drawings_are_named_for_screen_readers_and_ids_are_unique(text: str) -> None:
    found = Page(text)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert len(drawings) == 2 + 2 + 6  # differences, curves, two metrics against three costs
    for each in drawings:
        assert each["role"] == "img"
        assert set((each["aria-labelledby"] or "").split()) <= set(ids)
    labelled = {a["aria-labelledby"] for tag, a in found.tags if tag == "section"}
    assert labelled <= set(ids)


@pytest.mark.parametrize("seeds", [1, 3])
def test_thirty_runs_with_128_examples_are_less_than_2_mb(seeds: int) -> None:
    long = ["é<&\"'" * 2000] * 128
    runs = [run(v, s, hostile=long, steps=200) for v in range(30 // seeds) for s in range(seeds)]
    made = page(sweep(runs))
    found = Page(made)
    assert len(made.encode()) < LIMIT
    kept = [a for tag, a in found.tags if tag == "details" and a.get("class") == "example"]
    assert 0 < len(kept) <= 128
    said = "All 128 examples" if len(kept) == 128 else f"{len(kept)} of 128 examples, so that the page stays small"
    assert said in found.words


def test_the_same_comparison_gives_the_same_page(text: str) -> None:
    assert page(four_by_three(HOSTILE)) == text


def test_one_seed_says_that_it_is_about_these_runs() -> None:
    found = Page(page(sweep([run(0, 0, examples=20), run(1, 0, examples=20)])))
    assert "(these two runs only)" in found.words


def test_no_finished_run_is_a_page_with_the_reasons() -> None:
    found = Page(page(sweep([run(0, 0, status=FAILED, error="out of memory"), run(1, 0, status=MISSING, error="no")])))
    assert "There is nothing to compare" in found.words
    assert "out of memory" in found.words
    assert not [tag for tag, _ in found.tags if tag == "svg"]


def test_a_single_variant_has_no_difference_to_show() -> None:
    found = Page(page(sweep([run(0, 0, examples=3), run(0, 1, examples=3)])))
    assert "no second variant has a result" in found.words


def test_numbers_that_are_none_break_no_drawing() -> None:
    runs = [run(variant, 0, examples=5, steps=30) for variant in range(2)]
    runs[1].curves["train/loss"][3:] = [(step, float("nan")) for step in range(4, 31)]
    runs[0].costs["peak_memory_gib"] = float("inf")
    made = page(sweep(runs))
    Page(made)
    assert not re.search(r'(?:points|x|y|cx|cy|d)="[^"]*(?:nan|inf)', made)


def test_long_curves_are_averaged_and_a_step_that_one_seed_lacks_is_left_out() -> None:
    comparison = sweep([run(0, seed, examples=3, steps=1000) for seed in range(2)])
    (points,) = curves(comparison.variants, "train/loss")
    assert len(points) == POINTS
    assert all(low <= mean <= high for _, mean, low, high in points)
    first = comparison.variants[0].finished[0]
    first.curves["short"] = [(1, 2.0), (2, 3.0)]
    comparison.variants[0].finished[1].curves["short"] = [(2, 5.0), (3, 9.0)]
    assert curves(comparison.variants, "short") == [[(2.0, 4.0, 3.0, 5.0)]]


def test_variants_have_letters() -> None:
    assert [mark(index) for index in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]
    assert shown("a\r\nb\tc <\u200f>") == "a\nb\tc &lt;\\x200f&gt;"


def test_many_variants_are_counted_by_verdict_before_all_are_told() -> None:
    comparison = sweep([run(variant, 0, examples=20, steps=20) for variant in range(12)])
    found = Page(page(comparison))
    assert "eval/loss, against adapter.rank=2: of 11 variants 11 better (these two runs only)." in found.words
    assert "Of 12 variants the baseline and the 7 best are drawn." in found.words
    assert all(answer in found.words for answer in rows.answers(comparison))


def test_an_axis_shows_what_is_there() -> None:
    runs = [run(variant, seed, examples=20, steps=30) for variant in range(2) for seed in range(2)]
    for each in runs:
        each.metrics["eval/rougeL"] = 0.0
        each.scores["eval/rougeL"] = dict.fromkeys(each.scores["eval/rougeL"], 0.0)
        each.shares["eval/rougeL"] = 0.0
        each.curves["eval/rougeL"] = [(0, 0.0), (30, 0.0)]
    made = page(sweep(runs))
    drawn = {
        title: svg for svg in re.findall(r"<svg.*?</svg>", made) for title in re.findall(r"<title id[^>]*>(.*?)<", svg)
    }
    flat = drawn["eval/rougeL over steps"]
    assert not re.search(r">-\d", flat)
    assert ">0.0<" in flat
    assert ">1.0<" in flat
    assert "Differences of eval/rougeL to the baseline, with 95 % intervals" not in drawn
    for svg in drawn.values():
        numbers = re.findall(r'text-anchor="middle">(-?[\d.,]+)</text>', svg)
        assert len(numbers) >= 2


def test_scores_are_shown_where_no_answer_was_generated() -> None:
    runs = [run(variant, 0, examples=6) for variant in range(2)]
    for each in runs:
        for name in list(each.texts)[2:]:
            each.texts[name]["output"] = None
            del each.scores["eval/rougeL"][name]
    found = Page(page(sweep(runs)))
    answers = [attributes for tag, attributes in found.tags if tag == "div" and attributes.get("class") == "answer"]
    assert len(answers) == 12
    assert all(re.match(r"\d", each["data-scores"] or "") for each in answers)
    assert found.words.count("(no answer was generated)") == 8


def test_a_change_of_a_metric_without_direction_is_no_gain() -> None:
    runs = [run(variant, 0, examples=6) for variant in range(2)]
    for each in runs:
        each.directions.update({"eval/loss": "neither"})
    made = page(sweep(runs))
    assert 'data-sign="0">eval/loss' in made
    assert "Neither way is better" in Page(made).words
