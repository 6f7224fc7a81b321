"""python -m jobs.report: the command around jobs.report.run."""

import jobs.report
from jobs.command.cli import main

if __name__ == "__main__":
    main(jobs.report.run, jobs.report.Args, jobs.report.__doc__ or "")
