"""python -m jobs.experiment: the command around jobs.experiment.run."""

import jobs.experiment
from jobs.command.cli import main

if __name__ == "__main__":
    main(jobs.experiment.run, jobs.experiment.options, jobs.experiment.__doc__ or "", resumes=True)
