"""python -m jobs.pipeline: the command around jobs.pipeline.run."""

import jobs.pipeline
from jobs.command.cli import main

if __name__ == "__main__":
    main(
        jobs.pipeline.run,
        jobs.pipeline.options,
        jobs.pipeline.__doc__ or "",
        resumes=True,
        then=lambda given: ("status", given.out),
    )
