"""The commands in the order in which they are used, one line each.

python -m jobs
python -m jobs train --help      # the same as python -m jobs.train --help
"""

import os
import sys

from data.nearest import correction
from jobs.command.output import guard

COMMANDS = {
    "make_data": "make a log: from a table of your own, generated, or public",
    "check": "say what a run would refuse or warn about in a log",
    "train": "train a problem on a log: the ranker, or --problem listwise",
    "ensemble": "train one model for each fold of users, without it",
    "calibrate": "make a trained model's probabilities true to its validation part",
    "evaluate": "judge a trained model on any log, by slice and with intervals",
    "score": "write what a model says of every exposure, as Parquet",
    "evolve": "tune the fusion of the scores, or any --objective",
    "fit": "fit what no gradient trains: effects of incentives",
    "operate": "decide from day to day: who gets which incentive",
    "experiment": "compare two policies in a simulated world, in pairs",
    "report": "put runs side by side on one HTML page",
    "export": "write a model for serving: torch.export, ONNX, serving.json",
    "tune": "search for settings of train or evolve, many trials at a time",
    "pipeline": "train to export as one job that goes on, then day by day",
    "status": "say where runs stand",
    "submit": "run any of these on a Ray cluster",
    "demo": "everything once, on a generated log",
}
USER_ERROR = 2


def index() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    head = "usage: python -m jobs.COMMAND [options]      --help: examples and every option"
    return "\n".join([head, "", *lines])


def main(words: list[str]) -> int:
    """The index, or the command that the first word names, in this process's place. Returns the exit code."""
    guard()
    if not words or words[0] in ("-h", "--help", "help"):
        print(index())
        return 0
    name = words[0].replace("-", "_")
    if name not in COMMANDS:
        print(f"error: no command {words[0]!r}; {correction(name, COMMANDS, 'there are')}", file=sys.stderr)
        return USER_ERROR
    os.execv(sys.executable, [sys.executable, "-m", f"jobs.{name}", *words[1:]])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
