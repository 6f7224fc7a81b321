"""python -m jobs.tune: the command around jobs.tune.run."""

import jobs.tune
from jobs.command.cli import main

if __name__ == "__main__":
    main(jobs.tune.run, jobs.tune.options, jobs.tune.__doc__ or "", resumes=True)
