"""What the transforms of a schema have to know of the training part, measured before a training.

One feature after the other, from up to `max_rows` of its values in whole row groups spread evenly over the part: memory
is that of one column. Part of the trained model's schema: whoever uses the model uses the same numbers. Shapes: R rows.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from data.encode import spread
from data.errors import UserError
from data.kinds import number
from data.log import Log, Part
from data.schema import Schema
from data.transforms import Chain, NoLogarithm, apply, fit

MAX_ROWS = 1_000_000


def measured(
    log: Log, parts: Mapping[str, Part], known: Mapping[str, tuple[tuple[float, ...], ...]], max_rows: int = MAX_ROWS
) -> Schema:
    """The log's schema with the statistics of its part "train", but for those that are known already, by feature.

    Raises UserError naming the column: nothing there to measure, a logarithm of -1 or less in any of the parts.
    """
    schema, train = log.schema, parts["train"]
    own = {name: known[name] for name in schema.unmeasured if name in known}
    schema = dataclasses.replace(schema, statistics={**schema.statistics, **own})
    statistics = dict(schema.statistics)
    for name in schema.unmeasured:
        source, chain = schema.sources.get(name), schema.transforms.get(name, ())
        try:
            if source is not None and source.quantiles:
                values_R = values(log, train, source.column, max_rows)
                statistics[name] = (boundaries(values_R, source.quantiles),)
            else:
                statistics[name] = fit(chain, values(log, train, name, max_rows))
        except NoLogarithm:
            refuse_logarithms(log, {"train": train}, [name])
        except UserError as error:
            raise UserError(f"{log.location}/train: column {name!r}: {error}") from None
    schema = dataclasses.replace(schema, statistics=statistics)
    logarithms = [name for name, chain in schema.transforms.items() if any(step.name == "log1p" for step in chain)]
    refuse_logarithms(dataclasses.replace(log, schema=schema), parts, logarithms)
    return schema


def boundaries(values_R: np.ndarray, quantiles: int) -> tuple[float, ...]:
    """Inner quantiles, each once; fewer where values repeat."""
    known_R = values_R[~np.isnan(values_R)]
    if not len(known_R):
        raise UserError("all values of train are missing; there is nothing to measure")
    return tuple(np.unique(np.quantile(known_R, np.arange(1, quantiles) / quantiles)).tolist())


def values(log: Log, part: Part, name: str, max_rows: int) -> np.ndarray:
    """float64_R of a column, NaN where missing. Raises UserError naming file and column of an infinite value."""
    found = []
    for file, index in spread(part, max_rows):
        values_R = number(log.read_row_group(file, index, [name]), name, wide=True)
        if np.isinf(values_R).any():
            raise UserError(f"{file.path}: column {name!r} has an infinite value: write it as missing")
        found.append(values_R)
    return np.concatenate(found)


def refuse_logarithms(log: Log, parts: Mapping[str, Part], names: list[str]) -> None:
    """Raise UserError naming file, column and row of a value whose log1p there is not, in any row of the parts.

    Row groups are read only where their smallest value may be one.
    """
    for part in parts.values():
        for name in names:
            chain, statistics = log.schema.steps(name)
            first = next(index for index, step in enumerate(chain) if step.name == "log1p")
            for path, index, begin in doubtful(log, part, name, chain[:first], statistics[:first]):
                file = next(one for one in part.files if one.path == path)
                values_R = number(log.read_row_group(file, index, [name]), name, wide=True)
                try:
                    apply(chain, statistics, values_R)
                except NoLogarithm as error:
                    row, value = begin + error.row, values_R[error.row]
                    raise UserError(
                        f"{path}: column {name!r} is {value:,.10g} in row {row}: log1p takes numbers above -1; put "
                        '{"clip": [0, null]} before it, or {"missing": [...]} if it is a placeholder'
                    ) from None


def doubtful(
    log: Log, part: Part, name: str, before: Chain, statistics: tuple[tuple[float, ...], ...]
) -> Iterator[tuple[str, int, int]]:
    """(path, row group, its first row in the file) where a value of -1 or less may reach the logarithm, as far as the
    least values tell that the files' footers keep."""
    both = zip(before, statistics, strict=True)
    clips = [(step, known) for step, known in both if step.name in ("clip", "clip_quantiles")]
    raised = [step.values[0] if step.name == "clip" else known[0] for step, known in clips]
    if any(low is not None and float(low) > -1 for low in raised) or any(step.name == "quantile" for step in before):
        return
    for file in part.files:
        source = log.schema.sources.get(name)
        least = {} if source and source.part else log.least(file, source.column if source else name)
        begin = 0
        for index, rows in enumerate(file.row_groups):
            low = least.get(index)
            filled = [step.values[0] for step in before if step.name == "fill" and not step.measured]
            if low is None or low <= -1 or any(float(value) <= -1 for value in filled if value is not None):
                yield file.path, index, begin
            begin += rows
