"""python -m jobs.evolve: the command around jobs.evolve.run."""

import jobs.evolve
from jobs.command.cli import main

if __name__ == "__main__":
    main(jobs.evolve.run, jobs.evolve.options, jobs.evolve.__doc__ or "", resumes=True)
