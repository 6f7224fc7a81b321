"""What an objective must give, checked where the engine meets it: one line that names it, not a traceback of ours.

What its code raises becomes an ObjectiveError that keeps the error's type, message and place, and the traceback as
text, which is what can travel from a worker. What it returns is copied: whatever it does with its arrays afterwards,
the engine's are its own.
"""

import json
import os
import traceback
from typing import Any

import numpy as np

from data.errors import UserError

NEEDED = ("initial", "evaluate_batch", "describe")
LIBRARIES = (os.path.dirname(os.__file__), "site-packages", "dist-packages")
BY_VALUE = "_counterpoint_by_value"  # set in a module that workers cannot import: what it defines is sent whole
LONGEST_TRACE = 20_000  # characters, the last ones


class ObjectiveError(UserError):
    """A fault of the objective. `trace`: the traceback of what its code raised, empty where it raised nothing."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectiveError, (str(self), self.trace)


def check_methods(objective: Any) -> None:
    """Raise ObjectiveError if it lacks a method that the engine calls."""
    missing = [name for name in NEEDED if not callable(getattr(objective, name, None))]
    if missing:
        raise ObjectiveError(
            f"{name_of(objective)} has no {missing[0]}(): an objective has initial(), "
            "evaluate_batch(theta_PD, seeds_P) and describe() (es/objectives/base.py)"
        )


def call(objective: Any, method: str, *arguments: Any) -> Any:
    """What a method of the objective returns. Raises ObjectiveError for whatever it raises, sys.exit() included.

    numpy's error handling is what it was when this returns: an objective that changes it would change the engine's.
    """
    try:
        with np.errstate():
            return getattr(objective, method)(*arguments)
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise blame(objective, method, error) from error


def blame(objective: Any, method: str, error: BaseException) -> UserError:
    """The error of a method in one line, with the place in the objective's own file; a UserError says it itself."""
    if isinstance(error, UserError):
        return error
    text = " ".join(f"{type(error).__name__}: {said(error)}".split()).removesuffix(":")
    trace = "".join(traceback.format_exception(error))[-LONGEST_TRACE:]
    hint = "; candidates are only lent: copy what is to be changed" if "read-only" in text else ""
    return ObjectiveError(
        f"{name_of(objective)}.{method} raised {text} ({place(objective, method, error)}){hint}", trace
    )


def said(error: BaseException) -> str:
    """Its message, cut to a line; errors of the objective's own may fail to give one."""
    try:
        return f"{error!s:.500}"
    except Exception:
        return ""


def place(objective: Any, method: str, error: BaseException) -> str:
    """file:line of the innermost call that is not in a library, else the method's first line."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without the engine's own call
    for frame in reversed(frames):
        if not frame.filename.startswith("<") and not any(part in frame.filename for part in LIBRARIES):
            return f"{frame.filename}:{frame.lineno}"
    code = getattr(getattr(type(objective), method, None), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else "outside of Python code"


def name_of(objective: Any) -> str:
    return type(objective).__name__


def checked_returns(objective: Any, method: str, given: Any, candidates: int) -> np.ndarray:
    """Returns as (P,) float64, a copy. Raises ObjectiveError for another shape, or for what are no real numbers."""
    try:
        returns_P = np.asarray(given)
    except Exception as error:
        what = f"a {type(given).__name__} that is no array of numbers ({' '.join(str(error).split())})"
    else:
        if returns_P.shape == (candidates,) and returns_P.dtype.kind in "fiu":
            with np.errstate(over="ignore"):  # beyond float64: infinite, a failed evaluation
                return returns_P.astype(np.float64)
        what = described(given, returns_P)
    raise ObjectiveError(
        f"{name_of(objective)}.{method} returned {what}: it must be ({candidates},), one real number per candidate"
    )


def described(given: Any, array: np.ndarray) -> str:
    """What is wrong with an array of returns: its shape before its type."""
    if given is None:
        return "None"
    if array.ndim == 0 and array.dtype == object:
        return f"a {type(given).__name__}"
    if array.ndim != 1 or array.dtype.kind in "fiu":
        return f"shape {array.shape}"
    inner = f" (the first is of type {type(array[0]).__name__})" if array.dtype == object and len(array) else ""
    return f"dtype {array.dtype}{inner}"


def split_observed(objective: Any, given: Any) -> tuple[Any, Any]:
    """(returns, statistics) of evaluate_observed. Raises ObjectiveError for what is no pair."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ObjectiveError(
            f"{name_of(objective)}.evaluate_observed returned a {type(given).__name__}: it must be a pair, returns and "
            "statistics"
        )
    return given[0], given[1]


def checked_statistics(objective: Any, given: Any, candidates: int) -> np.ndarray:
    """Rows of statistics as (P, S) float64, a copy. Raises ObjectiveError for another shape."""
    try:
        rows_PS = np.array(given, np.float64)
    except Exception as error:
        what = f"statistics that are no array of numbers ({' '.join(str(error).split())})"
    else:
        if rows_PS.ndim == 2 and len(rows_PS) == candidates:
            return rows_PS
        what = f"statistics of shape {rows_PS.shape}"
    raise ObjectiveError(
        f"{name_of(objective)}.evaluate_observed returned {what}: they must be ({candidates}, S), a row per candidate"
    )


def checked_figures(objective: Any, given: Any) -> dict[str, float]:
    """The figures that `observe` returns, as plain finite numbers by name; ObjectiveError for others."""
    if isinstance(given, dict):
        figures = {name: value for name, value in given.items() if isinstance(name, str)}
        try:
            numbers = {name: float(value) for name, value in figures.items()}
        except (TypeError, ValueError, OverflowError):
            numbers = {}
        if len(numbers) == len(given) and np.isfinite(list(numbers.values())).all():
            return numbers
    raise ObjectiveError(
        f"{name_of(objective)}.observe() must return finite figures by name; it returned {given!r:.80}"
    )


def initial_theta(objective: Any) -> np.ndarray:
    """The objective's own start, (D,) float32; ObjectiveError if it is no vector of finite numbers."""
    check_methods(objective)
    given = call(objective, "initial")
    try:
        with np.errstate(over="ignore"):
            theta_D = np.array(given, np.float32)
    except Exception as error:
        raise ObjectiveError(f"{name_of(objective)}.initial() is no vector of numbers: {error}") from error
    if theta_D.ndim != 1 or not len(theta_D) or not np.isfinite(theta_D).all() or np.iscomplexobj(given):
        raise ObjectiveError(
            f"{name_of(objective)}.initial() must be a non-empty vector of finite numbers (float32); "
            f"it has shape {theta_D.shape}" + ("" if np.isfinite(theta_D).all() else " and values that are not finite")
        )
    return theta_D


def facts_of(objective: Any) -> dict[str, Any]:
    """What `describe` returns, as plain JSON values of its own; ObjectiveError if they are none."""
    check_methods(objective)
    given = call(objective, "describe")
    try:
        facts = json.loads(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ObjectiveError(f"{name_of(objective)}.describe() must return plain JSON facts: {error}") from error
    if not isinstance(facts, dict):
        raise ObjectiveError(f"{name_of(objective)}.describe() must return a dict, not a {type(given).__name__}")
    return facts
