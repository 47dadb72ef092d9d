"""Texts of messages: counts, lists, untrusted text, hidden secrets."""

from __future__ import annotations

import pytest

from rewards_core.text import counted, hide, listed, one_line


@pytest.mark.parametrize(
    ("count", "many", "words"),
    [
        (0, "", "0 rows"),
        (1, "", "1 row"),
        (2, "", "2 rows"),
        (1_200, "", "1,200 rows"),
        (1, "lines", "1 row"),
        (2, "lines", "2 lines"),
    ],
)
def test_counts_in_words(count: int, many: str, words: str) -> None:
    assert counted(count, "row", many) == words


def test_lists_in_words() -> None:
    assert [listed(names) for names in ("A", "AB", "ABC")] == ["A", "A and B", "A, B and C"]


@pytest.mark.parametrize("written", ['a"key', 'a\\"key', "a%22key"])
def test_a_secret_is_hidden_in_every_escaped_form(written: str) -> None:
    assert hide(f"you sent {written} here", ('a"key',)) == "you sent [hidden] here"


def test_an_untrusted_text_becomes_one_printable_line() -> None:
    assert one_line("a\r\n\x1b[31mb\u2028\u202ec") == "a [31mb c"
    assert one_line("x" * 400) == "x" * 299 + "…"
    assert hide("a key here", ("key",)) == "a [hidden] here"
