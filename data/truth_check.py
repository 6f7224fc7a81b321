"""Compares a part's truth with its log before anything is trained or scored: a wrong join is found here or nowhere."""

import numpy as np

from data.errors import UserError
from data.labels import checked_labels
from data.log import Log, Part


def check_truth(log: Log, part: Part) -> None:
    """One pass over keys and labels.

    Raises UserError naming file and row: an exposure without a key or without a row of truth, a clicked exposure whose
    conversion is not the potential one, which by definition it shows.
    """
    schema = log.schema
    assert schema.truth is not None
    assert schema.exposure is not None
    truth = log.truth(part)
    columns = list(dict.fromkeys([schema.exposure, *schema.labels.values()]))
    for file in part.files:
        start = 0
        for index, rows in enumerate(file.row_groups):
            table = log.read_row_group(file, index, columns)
            column = table.column(schema.exposure)
            if column.null_count:
                row = start + int(np.flatnonzero(column.is_null().to_numpy())[0])
                raise UserError(f"{file.path}: row {row}: column {schema.exposure!r} is missing; it joins the truth")
            key_R = column.to_numpy()
            try:
                potential_R = truth.potential_R[truth.lookup(key_R)] == 1
            except UserError as error:
                raise UserError(f"{file.path}: {error}") from None
            labels = checked_labels(schema, table, file.path, start)
            if "click" in labels and "conversion" in labels:
                wrong = np.flatnonzero(labels["click"] & (labels["conversion"] != potential_R))
                if len(wrong):
                    row, name, potential = int(wrong[0]), schema.labels["conversion"], schema.truth.potential_conversion
                    raise UserError(
                        f"{file.path}: row {start + row}: the log contradicts its truth: exposure {key_R[row]} was "
                        f"clicked and {name!r} is {int(labels['conversion'][row])}, but {potential!r} is "
                        f"{int(potential_R[row])} ({len(wrong)} such rows in this row group)"
                    )
            start += rows
