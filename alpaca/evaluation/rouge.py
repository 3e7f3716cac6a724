"""ROUGE-L F1 (Lin 2004), the number that `rouge_score` gives without stemming."""

from rouge_score import rouge_scorer

_SCORER = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L F1 of two texts, words compared in lower case."""
    return float(_SCORER.score(reference, answer)["rougeL"].fmeasure)
