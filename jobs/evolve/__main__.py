"""python -m jobs.evolve: the command around jobs.evolve.run."""

import jobs.evolve
from jobs.command.cli import main


def following(given: jobs.evolve.Arguments) -> tuple[object, ...]:
    """Its page; of a replay none."""
    out = given.out or given.resume
    return () if given.replay or out is None else ("report", out, "--out", out / "report.html")


if __name__ == "__main__":
    main(jobs.evolve.run, jobs.evolve.options, jobs.evolve.__doc__ or "", resumes=True, then=following)
