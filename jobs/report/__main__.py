from jobs.cli import main
from jobs.report import Args, __doc__, run

if __name__ == "__main__":
    main(run, Args, __doc__ or "")
