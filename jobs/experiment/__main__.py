"""python -m jobs.experiment: the command around jobs.experiment.run."""

import sys

import jobs.experiment
from jobs.command.cli import main


def following(given: jobs.experiment.Arguments) -> list[object]:
    """The same with twice the pairs, for intervals narrower by 1.4: it goes on from those that are there."""
    words = iter(sys.argv[1:])
    rest: list[object] = []
    for word in words:
        if word == "--pairs":
            next(words, "")
        elif not word.startswith("--pairs="):
            rest.append(word)
    return ["experiment", *rest, "--pairs", 2 * given.pairs]


if __name__ == "__main__":
    main(jobs.experiment.run, jobs.experiment.options, jobs.experiment.__doc__ or "", resumes=True, then=following)
