"""Token ids back to text by the pieces of a vocabulary, with nothing a decoder would add or take away."""

import functools

from transformers import PreTrainedTokenizerBase


def spelt(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of token ids with nothing added or taken away, by the vocabulary's own pieces."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    if _is_byte_level(tokenizer):
        return b"".join(bytes(_BYTE_OF[character] for character in piece) for piece in pieces).decode()
    found = b""
    for piece in pieces:
        is_byte = len(piece) == 6 and piece.startswith("<0x")
        found += bytes([int(piece[3:5], 16)]) if is_byte else piece.replace("▁", " ").encode()
    return found.decode()


def writable(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` without characters of which the vocabulary lacks a byte: SmolLM2 lacks F1 to F4 and some below 20."""
    if not _is_byte_level(tokenizer):
        return text
    return "".join(character for character in text if all(byte in _bytes_of(tokenizer) for byte in character.encode()))


@functools.cache
def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.convert_tokens_to_ids("Ġ") not in (None, tokenizer.unk_token_id)


@functools.cache
def _bytes_of(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    vocabulary = tokenizer.get_vocab()
    return frozenset(byte for character, byte in _BYTE_OF.items() if character in vocabulary)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table: a printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
