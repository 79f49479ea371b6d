"""The field's words: names, comments, messages and pages use none of our own for the same thing."""

import re

import pytest
from conftest import ROOT

WORDS = {  # what is searched for, and what the field says
    r"deals?|dealt|dealing|dealers?": "pack, deinterleave, split",
    r"sieves?|sift\w*": "detect missing pixels, and replace them",
    r"settl\w*": "normalize; drain, wait, decide",
    r"past the caches?": "by streaming stores",
    r"afresh": "OVERWRITE",
    r"nought": "zero",
    r"anew": "again",
    r"meanwhile": "while, at the same time",
    r"lend\w*|lent|keepers?": "handle provider, cache",
    r"adopt\w*": "hand over",
    r"hops?|pitch": "row stride, byte strides",
}
HISTORY = {"CHANGELOG.md", "experiments.md"}
"""Pages that keep the words of their days."""
PAGES = sorted(
    page
    for folder in (ROOT / "tileconv", ROOT / "scripts", ROOT / "docs")
    for page in [*folder.rglob("*.py"), *folder.rglob("*.md")]
    if page.name not in HISTORY
) + [page for page in sorted(ROOT.glob("*.md")) if page.name not in HISTORY]


def found_in(text):
    """Words of ours in a text, with the line and what to say instead."""
    for line in text.splitlines():
        # names in code are words too: settle_dtypes, MissingSieve
        told = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", line)
        for word, instead in WORDS.items():
            if re.search(rf"\b({word})\b", told, re.IGNORECASE):
                yield f"{line.strip()} -> {instead}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_uses_the_words_of_the_field(page):
    assert not list(found_in(page.read_text()))


@pytest.mark.parametrize("line", ["def settle_dtypes():", "class MissingSieve:", "x = 1  # Anew"])
def test_words_are_found_in_names_and_comments(line):
    assert len(list(found_in(line))) == 1
