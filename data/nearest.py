"""The name that was meant by a word that is none: for messages about options, settings, columns, commands."""

import difflib
from collections.abc import Iterable


def meant(word: str, known: Iterable[str]) -> str:
    """The known name that is closest to the word, by all of it or by its last part (a.b.NAME); "" if none is close."""
    names = list(known)
    tails = {last(name): name for name in reversed(names)}
    if last(word) in tails:
        return tails[last(word)]
    whole = {name.removeprefix("--"): name for name in reversed(names)}
    if close := difflib.get_close_matches(word.removeprefix("--"), whole, n=1, cutoff=0.7):
        return whole[close[0]]
    close = difflib.get_close_matches(last(word), tails, n=1, cutoff=0.75)
    return tails[close[0]] if close else ""


def last(name: str) -> str:
    return name.removeprefix("--").rsplit(".", 1)[-1]


def correction(word: str, known: Iterable[str], called: str) -> str:
    """What follows "unknown ...": the nearest name, else all of them. `called`: what the names are."""
    names = list(known)
    found = meant(word, names)
    return f"did you mean {found}?" if found else f"{called}: {', '.join(names)}"
