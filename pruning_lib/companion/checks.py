"""What a quick check says to a reader's answer, without showing the right one in its source.

An answer is compared with a number that the chapter computes, or with the hash of the right option.
"""

from __future__ import annotations

import hashlib

OPEN = "Replace the three dots by your answer, then run this cell again."


def option(answer: object, digest: str, hint: str) -> None:
    """Say whether the reader chose the option whose `hashed` value is `digest`; else give the hint.

    Parameters
    ----------
    answer : object
        A letter, or ``...`` where nothing was chosen yet.
    digest : str
        ``hashed(right)``.
    hint : str
        Where to think again.
    """
    _say(answer, isinstance(answer, str) and hashed(answer) == digest, hint)


def sizes(answer: object, right: tuple[int, ...], hint: str) -> None:
    """Say whether the reader's sizes, in their order, are those that the chapter computes.

    Parameters
    ----------
    answer : object
        A tuple or list of whole numbers, or ``...`` where nothing was guessed yet.
    right : tuple of int
    hint : str
        Where to think again.
    """
    _say(answer, isinstance(answer, tuple | list) and tuple(answer) == tuple(right), hint)


def number(answer: object, right: float, hint: str, *, rel: float) -> None:
    """Say whether the reader's number is near the one that the chapter computes.

    Parameters
    ----------
    answer : object
        A number, or ``...`` where nothing was guessed yet.
    right : float
    hint : str
        Where to think again.
    rel : float
        How far the answer may lie from `right`, as a share of it.
    """
    near = isinstance(answer, int | float) and abs(answer - right) <= rel * abs(right)
    _say(answer, near, hint)


def hashed(option: str) -> str:
    """Return the first twelve digits of the SHA-256 of a chosen option; case and blanks do not count."""
    return hashlib.sha256(option.strip().lower().encode()).hexdigest()[:12]


def _say(answer: object, right: bool, hint: str) -> None:
    print(OPEN if answer is ... else "Right." if right else f"Not yet. {hint}")
