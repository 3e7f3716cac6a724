"""ROUGE-L F1 (Lin 2004), the number that `rouge_score` gives without stemming, on the tokens of `alpaca.data.words`."""

from rouge_score import rouge_scorer

from alpaca.data.words import tokens


class _Tokens:
    """`rouge_score`'s interface of a tokeniser."""

    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


_SCORER = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Tokens())


def rouge_l(reference: str, answer: str) -> float | None:
    """ROUGE-L F1 of two texts; None where the reference has no token, so that no answer could be like it."""
    return float(_SCORER.score(reference, answer)["rougeL"].fmeasure) if tokens(reference) else None


def mean_rouge_l(scores: list[float | None]) -> float | None:
    """The mean of the scores there are; None where there is none."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None
