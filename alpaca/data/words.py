"""Text as tokens, the same for evaluation, near-duplicates and novelty: `rouge_score`'s, and those of other scripts.

In Latin script the tokens are `rouge_score`'s without stemming: lower case, runs of a-z and 0-9, so that numbers and
decisions on such texts are the same. `rouge_score` has no token in any other script. There a token is a run of letters,
marks and digits, or one character where a script puts no spaces between words.
"""

import re
import unicodedata

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0f40-\u0fbc"  # Thai, Lao, Tibetan
    "\u1000-\u109f\u1780-\u17d3"  # Burmese, Khmer
    "\u3005-\u3007\u3021-\u3029\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
)
_LATIN = (  # with what stands in Latin text: superscripts, fractions, units, letters of phonetic alphabets
    "\u00aa\u00b2\u00b3\u00b5\u00b9\u00ba\u00bc-\u00be\u00c0-\u02ff\u1d00-\u1dbf\u1e00-\u1eff\u2070-\u218f\u2460-\u24ff"
    "\u2c60-\u2c7f\ua720-\ua7ff\uab30-\uab6f\ufb00-\ufb06\U0001d400-\U0001d7ff"
)
_MARKS = (  # vowels and accents of Cyrillic, Hebrew, Arabic and the scripts of India
    "\u0483-\u0489\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
)
_ACCENTS = "\u0300-\u036f\u3099\u309a\uff9e\uff9f"  # written apart from their letter: Cyrillic, Greek, kana
_TOKEN = re.compile(
    rf"[a-z0-9]+|[{_UNSPACED}][{_ACCENTS}]*|(?:[^\W_a-z0-9{_LATIN}{_UNSPACED}]|[{_MARKS}])"
    rf"(?:[^\W_a-z0-9{_LATIN}{_UNSPACED}]|[{_MARKS}{_ACCENTS}])*"
)
_ASCII_TOKEN = re.compile(r"[a-z0-9]+")
_WORD = re.compile(rf"[{_UNSPACED}][{_ACCENTS}]*|(?:[^\W{_UNSPACED}]|[{_MARKS}{_ACCENTS}])+")


def tokens(text: str) -> list[str]:
    """The tokens of ROUGE; none where a text has neither letters nor digits."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())  # the same, faster
    found = _TOKEN.findall(text.lower())
    return [token if token.isascii() else unicodedata.normalize("NFKC", token) for token in found]  # accents joined


def words(text: str) -> list[str]:
    """Words in lower case as people count them: accented letters belong to them; single characters as in `tokens`."""
    return _WORD.findall(text.lower())
