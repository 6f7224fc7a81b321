"""python -m jobs.tune: the command around jobs.tune.run."""

import jobs.tune
from jobs.command.cli import main


def following(given: jobs.tune.Arguments) -> tuple[object, ...]:
    """A training with what was found, where one trial is the best; elsewhere the page says what to choose among."""
    out = given.out or given.resume
    if out is None or not given.trains or not given.data or not (out / "best.json").exists():
        return ()
    return ("train", "--data", given.data, "--out", out.parent / "best", "--preset", out / "best.json")


if __name__ == "__main__":
    main(jobs.tune.run, jobs.tune.options, jobs.tune.__doc__ or "", resumes=True, then=following)
