"""What a case is: a function, and a call of it that is as it should be."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Case:
    """A public function and a valid call of it, built anew for each try.

    Parameters
    ----------
    name : str
        For the report.
    function : callable
        What is called with the arguments of `build`.
    build : callable
        Takes a folder, and returns the arguments by name.
    pure : bool
        Whether the function changes nothing, also where it succeeds.
    open : tuple of str
        Arguments that may be anything, as an example may.
    annotated : callable, optional
        Whose annotations hold, if not the function's own.
    """

    name: str
    function: Callable[..., Any]
    build: Callable[[Path], dict[str, Any]]
    pure: bool = False
    open: tuple[str, ...] = ()
    annotated: Callable[..., Any] | None = None
    fixed: tuple[str, ...] = ()
    hints: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        signed = self.annotated or self.function
        constructor = isinstance(signed, type)
        self.hints = typing.get_type_hints(signed.__init__ if constructor else inspect.unwrap(signed))
