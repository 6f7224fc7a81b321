"""Train, score, evolve, evaluate, export: one job that goes on wherever it was stopped, and ends in the same files.

    python -m jobs.pipeline --data runs/log --out runs/all
    python -m jobs.pipeline --data runs/log --out runs/all --workers 2 --es.workers 2 --epochs 4
    python -m jobs.pipeline --data runs/log --out runs/plain --workers 0           # this process, no Ray
    python -m jobs.pipeline --data runs/log --out runs/short --tuning.k 5 --es.generations 100
    python -m jobs.pipeline --data runs/log --out runs/daily --watch runs/days     # and then day by day
    python -m jobs.submit -- pipeline --data s3://bucket/log --out /shared/runs/all --workers 16 --es.workers 8

The policy is tuned on the scores of the validation part; the test part is only judged on. A stage that is done is
checked by the checksums of what it read and wrote, and done again, with what follows from it, where they differ:
OUT/pipeline.json. The same command continues a pipeline that was killed. docs/pipeline.md says what is in OUT, and how
--watch takes days in.
"""

from typing import Any

from jobs.command.call import Place, Result, call
from jobs.pipeline.options import Arguments as Arguments
from jobs.pipeline.options import arguments_of as arguments_of
from jobs.pipeline.options import options as options


def run(arguments: Arguments) -> dict[str, Any]:
    """Do what is not done; returns summary.json as a dict: no timings in it, so that it is the same every time."""
    from jobs.pipeline.driver import conduct

    return conduct(arguments)


def pipeline(out: Place, **options_: Any) -> Result:
    """All stages as `python -m jobs.pipeline` does them; returns the pipeline with its figures (docs/notebook.md).

    out: its directory. data=LOG, watch=DAYS, workers=0, es__generations=100, tuning__k=5 and so on.
    """
    return call("pipeline", run, options, {"out": out, **options_}, lambda given, found: (given.out, found))
