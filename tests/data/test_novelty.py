"""Novelty is `rouge_score`'s decision, ties included, only faster."""

import random
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, scoring
from rouge_score.tokenize import tokenize

from alpaca.data.novelty import MAX_VOCABULARY, Match, Pool, _code_point, f_measure, near_duplicates
from alpaca.data.words import tokens, words

SCORER = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
WORDS = ("write", "a", "short", "poem", "about", "the", "sea", "and", "list", "three", "facts", "of", "2", "rain")
THRESHOLDS = (0.5, 0.7, 0.9)


def rouge_l(first: str, second: str) -> float:
    return float(SCORER.score(first, second)["rougeL"].fmeasure)


def altered(text: str, draw: random.Random) -> str:
    """`text` with a few words left out, put in or exchanged, so that scores lie around the thresholds."""
    words = text.split()
    for _ in range(draw.randint(0, max(1, len(words) // 2))):
        kind, place = draw.random(), draw.randrange(len(words) + 1)
        if kind < 0.4:
            words.insert(place, draw.choice(WORDS))
        elif words and kind < 0.8:
            words.pop(min(place, len(words) - 1))
        elif words:
            words[min(place, len(words) - 1)] = draw.choice(WORDS)
    return " ".join(words)


def random_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        first = " ".join(draw.choices(WORDS, k=draw.randint(1, 24)))
        pairs.append((first, altered(first, draw)))
    return pairs


def check_decisions(pairs: list[tuple[str, str]]) -> None:
    decided = dict.fromkeys((True, False), 0)
    for number, (first, second) in enumerate(pairs):
        expected, threshold = rouge_l(first, second), THRESHOLDS[number % len(THRESHOLDS)]
        pool = Pool(threshold, [first])
        duplicate = pool.duplicate_of(second) == 0
        assert duplicate == (expected > threshold), (first, second, expected, threshold)
        assert pool.most_similar(second).score == expected, (first, second)
        decided[duplicate] += 1
    assert min(decided.values()) > len(pairs) // 10, f"one-sided pairs prove little: {decided}"


def test_decisions_are_those_of_rouge_score_on_random_pairs() -> None:
    check_decisions(random_pairs(20_000, seed=0))


@pytest.mark.slow
def test_decisions_are_those_of_rouge_score_on_100_000_random_pairs() -> None:
    check_decisions(random_pairs(100_000, seed=1))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_every_tie_up_to_80_tokens_is_rounded_as_rouge_score_rounds_it(threshold: float) -> None:
    lengths = np.arange(1, 81)
    common, length, other = (grid.ravel() for grid in np.meshgrid(lengths, lengths, lengths, indexing="ij"))
    possible = common <= np.minimum(length, other)
    common, length, other = common[possible], length[possible], other[possible]
    tie = 10 * 2 * common == round(threshold * 10) * (length + other)
    assert tie.sum() > 50
    ours = f_measure(common[tie], length[tie], other[tie])
    for value, shape in zip(ours, zip(common[tie], length[tie], other[tie]), strict=True):
        l, m, n = map(int, shape)  # noqa: E741
        assert value == scoring.fmeasure(l / m, l / n), shape
    if threshold == 0.7:
        assert 0 < (ours > threshold).sum() < len(ours), "rounding decides some ties each way"


@pytest.mark.parametrize(("shape", "dropped"), [((7, 9, 11), True), ((7, 10, 10), False)])
def test_the_two_known_ties_at_exactly_0_7(shape: tuple[int, int, int], dropped: bool) -> None:
    common, length, other = shape
    first = " ".join([f"c{k}" for k in range(common)] + [f"x{k}" for k in range(length - common)])
    second = " ".join([f"c{k}" for k in range(common)] + [f"y{k}" for k in range(other - common)])
    assert (rouge_l(first, second) > 0.7) == dropped
    assert near_duplicates([first, second], 0.7).tolist() == [-1, 0 if dropped else -1]


LATIN = st.characters(max_codepoint=0x24F)


@given(st.text(st.one_of(LATIN, st.sampled_from("’“”–…€™½²ﬁ🙂\u0301\u200b")), max_size=60))
def test_tokens_of_latin_texts_are_those_of_rouge_score(text: str) -> None:
    assert tokens(text) == tokenize(text, None)


@given(st.text(max_size=60))
def test_the_tokens_of_rouge_score_are_among_those_of_any_text(text: str) -> None:
    assert not Counter(tokenize(text, None)) - Counter(tokens(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("请列出5个词。", ["请", "列", "出", "5", "个", "词"]),
        ("Скажи «Привет», мир!", ["скажи", "привет", "мир"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("สวัสดี", list("สวัสดี")),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("ｗｏｒｌｄ１２", ["world12"]),
        ("ΟΔΟΣ 7", ["οδος", "7"]),
        ("?! 🙂 …", []),
    ],
)
def test_other_scripts_have_words_or_characters_as_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@pytest.mark.parametrize("text", ["Мой чай стынет", "ガギグ ばび", "Γειά σου", "한글 자모"])
def test_accents_written_apart_from_their_letters_make_no_other_tokens(text: str) -> None:
    apart = unicodedata.normalize("NFD", text)
    assert apart != text
    assert tokens(apart) == tokens(text)
    assert len(words(apart)) == len(words(text))


def test_texts_of_other_scripts_are_near_duplicates_by_what_they_say_not_by_a_digit() -> None:
    texts = [
        "列出5种颜色。",
        "5的平方是多少？",
        "列出5种颜色！",
        "Назови 5 рек.",
        "Кто написал эту песню 5 лет назад?",
        "Назови 5 рек!",
    ]
    assert near_duplicates(texts, 0.7).tolist() == [-1, -1, 0, -1, -1, 3]
    assert Pool(0.7, texts).most_similar("写一首诗").score == 0


def greedy(texts: list[str], threshold: float) -> list[int]:
    """The definition, pair by pair with `rouge_score`."""
    result: list[int] = []
    for index, text in enumerate(texts):
        kept = (k for k in range(index) if result[k] < 0)
        result.append(next((k for k in kept if rouge_l(texts[k], text) > threshold), -1))
    return result


@pytest.mark.parametrize("threshold", [0.0, *THRESHOLDS, 1.0])
def test_near_duplicates_name_the_earliest_kept_text(threshold: float) -> None:
    draw = random.Random(2)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 9))) for _ in range(60)]
    texts += [altered(draw.choice(texts), draw) for _ in range(60)] + ["", "🙂", "!!", "🙂"]
    expected = greedy(texts, threshold)
    assert near_duplicates(texts, threshold).tolist() == expected
    assert threshold == 1.0 or max(expected) > 0


def test_a_dropped_text_is_no_longer_compared_against() -> None:
    chain = ["a b c d e f g h i j", "a b c d e f g h x y", "a b c d e f z w x y"]
    assert [rouge_l(first, second) > 0.7 for first, second in pairwise(chain)] == [True, True]
    assert near_duplicates(chain, 0.7).tolist() == [-1, 0, -1]


def test_the_most_similar_text_is_the_best_of_the_whole_pool() -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(700)]
    pool = Pool(0.7, texts)
    for text in [altered(draw.choice(texts), draw) or "rain" for _ in range(12)]:
        scores = [rouge_l(text, other) for other in texts]
        assert pool.most_similar(text) == Match(scores.index(max(scores)), max(scores))
    assert pool.most_similar("entirely unseen") == Match(-1, 0.0)
    assert pool.most_similar("") == Match(-1, 0.0)


def test_the_scores_with_a_whole_pool_are_those_of_rouge_score() -> None:
    texts = [second for _, second in random_pairs(200, seed=4)] + ["", "列出三种鸟"]
    pool = Pool(0.7, texts)
    for first, _ in random_pairs(5, seed=5):
        assert pool.scores(first).tolist() == [rouge_l(text, first) for text in texts]
        assert pool.scores(first).max() == pool.most_similar(first).score
    assert pool.scores("").tolist() == [0.0] * len(texts)


def test_a_question_does_not_change_the_pool() -> None:
    pool = Pool(0.7, ["write a poem"])
    assert pool.duplicate_of("unseen words only") == -1
    assert pool.duplicate_of("write a poem now") == 0
    assert len(pool) == 1
    assert pool.add("unseen words only") == 1
    assert pool.duplicate_of("unseen words only") == 1


def test_tokens_beyond_the_surrogates_are_told_apart() -> None:
    filler = " ".join(f"w{number}" for number in range(0xD800 + 50))
    pool = Pool(0.7, [filler, "w55290 w55291 w55292 w55340 w55341"])
    assert pool.duplicate_of("w55290 w55291 w55292 w55340 w55341") == 1
    assert pool.duplicate_of("w55345 w55344 w55343") == -1
    points = [ord(_code_point(number)) for number in (1, 0xD7FF, 0xD800, 0xD801, MAX_VOCABULARY)]
    assert points == [1, 0xD7FF, 0xE000, 0xE001, 0x10FFFF]
    with pytest.raises(ValueError, match="distinct tokens"):
        _code_point(MAX_VOCABULARY + 1)


def test_a_threshold_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        Pool(1.5)
