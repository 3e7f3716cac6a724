"""What is counted about answers, against values worked out by hand and against `rouge_score`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from alpaca.data.words import tokens
from alpaca.evaluation.refusals import refuses
from alpaca.evaluation.rouge import rouge_l
from alpaca.evaluation.text_metrics import Text, distinct, never_stops, repetition, set_metrics, text_scores

WORDS = st.lists(st.sampled_from("the cat sat on a mat, dogs don't 12 é".split()), max_size=14).map(" ".join)


@given(WORDS, WORDS)
def test_rouge_l_is_the_number_of_rouge_score(reference: str, answer: str):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    if tokens(reference):
        assert rouge_l(reference, answer) == scorer.score(reference, answer)["rougeL"].fmeasure


def test_rouge_l_reads_every_script_and_gives_no_number_where_nothing_can_be_compared():
    assert rouge_l("北京是中国的首都。", "北京是中国的首都。") == 1
    assert rouge_l("北京是中国的首都。", "上海") == 0
    assert 0 < rouge_l("Москва — столица России.", "Столица России") < 1  # type: ignore[operator]
    assert rouge_l("?!", "?!") is None
    assert rouge_l("北京", "") == 0
    texts = [Text("?!", "?!"), Text("北京", "北京")]
    scores = [text_scores(text) for text in texts]
    assert "rougeL" not in scores[0]
    assert set_metrics(texts, scores)["rougeL"] == 1
    assert "rougeL" not in set_metrics(texts[:1], scores[:1])


def test_words_are_counted_where_a_script_puts_no_spaces():
    loop = text_scores(Text("我喜欢" * 20))
    assert (loop["words"], loop["repetition"] > 0.9) == (60, True)


def test_rouge_l_by_hand():
    # The longest common subsequence of 4 and 6 words is `the cat mat`: F1 = 2 x 3 / (4 + 6).
    assert rouge_l("The cat, the mat", "the black cat sat on mat") == pytest.approx(0.6)


def test_distinct_counts_different_n_grams_over_all_answers():
    answers = ["a b a b".split(), "a b c".split(), []]
    assert distinct(answers, 1) == 3 / 7
    assert distinct(answers, 2) == 3 / 5  # ab ba ab | ab bc
    assert distinct([], 1) == 0.0


def test_an_answer_that_goes_round_in_circles_is_repetitive_and_a_short_one_is_not():
    assert repetition(["one", "two", "three"] * 8) == 1 - 3 / 22
    assert repetition("every word of this sentence is here once only".split()) == 0.0
    assert repetition(["so"] * 7) == 0.0


def test_rates_and_means_over_a_set():
    texts = [
        Text("Paris is the capital.", "paris is  the capital.", tokens=6, stopped=True),
        Text("I'm sorry, but I can't help with that.", None, tokens=12, stopped=False),
        Text("", "Rome", tokens=1, stopped=True),
        Text("go " * 20, "stop", tokens=20, stopped=False),
    ]
    metrics = set_metrics(texts, [text_scores(text) for text in texts])
    assert metrics["answers"] == 4
    assert metrics["exact_match"] == pytest.approx(1 / 3)
    assert metrics["stop_rate"] == 0.5
    assert metrics["empty_rate"] == 0.25
    assert metrics["refusal_rate"] == 0.25
    assert metrics["repetition_rate"] == 0.25
    assert metrics["tokens"] == 39 / 4


def test_what_is_not_known_is_left_out():
    metrics = set_metrics([Text("yes")], [text_scores(Text("yes"))])
    assert not {"rougeL", "exact_match", "tokens", "stop_rate"} & metrics.keys()
    assert set_metrics([], []) == {}


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't assist with that request.",
        "I\u2019m sorry, I cannot help you.",
        "I cannot provide instructions for that.",
        "As an AI language model, I have no opinion on this.",
        "It would not be appropriate for me to write this.",
        "I must decline.",
        "Sorry! We are closed, I won't do it.",
    ],
)
def test_refusals_are_recognised(answer: str):
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Use kill -9 with the number of the process.",
        "I'm sorry for your loss. Call a friend you trust.",
        "You cannot open the car yourself; call a locksmith.",
        "Write: Dear Ms Bell, I am sorry for the delay.",
        "",
        "A story of two friends. " * 20 + "I'm sorry, I can't help you, he said.",
    ],
)
def test_answers_are_no_refusals(answer: str):
    assert not refuses(answer)


def test_a_model_that_never_stops_is_named_once_there_are_enough_answers():
    assert "never learned EOS" in str(never_stops(32, 0.0, 128))
    assert "never learned EOS" in str(never_stops(32, 1 / 32, 128))
    assert never_stops(32, 0.5, 128) is None
    assert never_stops(4, 0.0, 128) is None
    assert never_stops(32, None, 128) is None
