"""How any training or evolution went, as panels: the part of a page that all systems share."""

from collections.abc import Mapping

from funnel.numbers import compact, count, counted, duration
from funnel.panels import RUNS, Cell, Curve, Figure, Panel, Record, Sentence, Series, Table

WIDE_RANGE = 30.0
"""Largest over smallest value from which a curve has a logarithmic axis."""
NO_FIGURES = ("step", "epoch", "time", "best")
WRONG = {"lost_pairs": "lost", "reissued_pairs": "issued again", "failed_evaluations": "failed"}
WORDS = (
    (
        "Result so far, candidates",
        "The result so far is what would be used if the run ended there. Candidates are perturbed copies of it, from "
        "whose returns the next step follows; the best of them is no measure of progress.",
    ),
)


def training(record: Record, losses: Mapping[str, str] | None = None, figures: Mapping[str, str] | None = None,
             section: str = "Training") -> list[Panel]:  # fmt: skip
    """A curve for each loss term of the steps and each figure of the validations, {key: title}; None: all there are."""
    losses = known(record, "step", "loss") if losses is None else losses
    figures = known(record, "valid", "") if figures is None else figures
    mark = record.number("train.best_step")
    panels: list[Panel] = []
    for event, titles in (("step", losses), ("valid", figures)):
        for key, title in titles.items():
            x, y = record.course(event, "step", key)
            if not x:
                continue
            if event == "step":
                note = "Loss on training batches: logged values faint, running mean strong."
                panels.append(Curve(title, "step", "", (Series("", x, y),), note, smooth=True, section=section))
            else:
                note = "On the validation part. The ring marks the step whose weights were kept."
                line = Series("", x, y, mark=mark if mark in x else None)
                panels.append(Curve(title, "step", "", (line,), note, section=section))
    return panels


def known(record: Record, event: str, prefix: str) -> dict[str, str]:
    """Keys of an event that hold numbers, as their own titles."""
    keys = dict.fromkeys(key for each in record.events if each.get("event") == event for key in each)
    wanted = [key for key in keys if key.startswith(prefix) and key not in NO_FIGURES]
    return {key: key for key in wanted if record.course(event, "step", key)[0]}


def training_cost(record: Record, about: Mapping[str, str]) -> Table:
    """One line: what was trained ({column: value}) and what it cost."""
    figures = (record.number(f"train.{key}") for key in ("workers", "epochs", "steps", "rows_per_s"))
    times = (record.number(f"train.{key}") for key in ("startup_s", "seconds"))
    cells: tuple[Cell, ...] = (record.name, *about.values(), *map(compact, figures), *map(duration, times))
    columns = ("Run", *about, "Workers", "Epochs", "Steps", "Rows/s", "Start-up", "Duration")
    note = "Start-up: from the command to the first training step. Rows/s: over all workers."
    return Table("Training", columns, (cells,), note, RUNS)


def evolution(record: Record, section: str, measure: str = "return") -> list[Panel]:
    """The return by generation; what went wrong, where anything did; what moved: sigma, updates, time, idle workers."""
    panels = [climb(record, section, measure), wrong(record, section)]
    for key, title, scale in (
        ("sigma", "Size of the perturbations (sigma), mean over parameters", 1.0),
        ("update_ratio", "Size of a step / size of the parameters", 1.0),
        ("seconds", "Milliseconds a generation", 1e3),
        ("idle_share", "Share of the workers' time without work", 1.0),
    ):
        panels.append(moved(record, key, title, section, scale))
    return [*(panel for panel in panels if panel), *calm(record, section)]


def climb(record: Record, section: str, measure: str) -> Curve | None:
    """The centre of the population, its best member, its mean with one standard deviation."""
    names = {"centre": "result so far", "best": "best candidate", "mean": "candidates, mean ± std"}
    lines = []
    for part, name in names.items():
        x, y = record.course("generation", "generation", f"return.{part}")
        low = high = None
        if part == "mean":
            _, spread = record.course("generation", "generation", "return.std")
            if len(spread) == len(y):
                low, high = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
        if x:
            lines.append(Series(name, x, y, low, high, look="grey" if part == "mean" else "line"))
    note = "The result so far is what would be used if the run ended there; candidates are perturbed copies of it, "
    note += "the band one standard deviation around their mean."
    title = "Return per generation"
    return Curve(title, "generation", measure, tuple(lines), note, section=section) if lines else None


def wrong(record: Record, section: str) -> Curve | None:
    """Pairs lost with a worker or issued again, and evaluations that failed; None if none."""
    lines = []
    for key, name in WRONG.items():
        x, y = record.course("generation", "generation", key)
        if any(y):
            when = counted(sum(value > 0 for value in y), "generation")
            lines.append(Series(f"{name}: {compact(sum(y))} in {when}", x, y))
    note = "A lost pair went down with its worker, one issued again was waited for too long; both are evaluated "
    note += "elsewhere and change nothing in the result. A failed evaluation ranks worst."
    title = "Lost, issued again, failed"
    return Curve(title, "generation", "pairs or evaluations", tuple(lines), note, section=section) if lines else None


def moved(record: Record, key: str, title: str, section: str, scale: float) -> Curve | None:
    """A figure by generation; None where it never changes."""
    x, y = record.course("generation", "generation", key)
    if key == "update_ratio":  # 0 where theta was 0: no size to compare with
        x, y = [a for a, b in zip(x, y, strict=True) if b], [b for b in y if b]
    if len(set(y)) < 2:
        return None
    values = [scale * value for value in y]
    wide = key != "idle_share" and min(values) > 0 and max(values) / min(values) > WIDE_RANGE
    return Curve(title, "generation", "", (Series("", x, values),), smooth=True, log_y=wide, section=section)


def calm(record: Record, section: str) -> list[Sentence]:
    """What a curve would show as a flat line, and the steps played, in words."""
    facts = []
    sigmas = set(record.course("generation", "generation", "sigma")[1])
    if len(sigmas) == 1:
        facts.append(f"Perturbations have size {compact(sigmas.pop())} (sigma) throughout.")
    if not any(record.number(f"es.{key}") for key in WRONG):
        facts.append("No pair was lost or issued again, and no evaluation failed.")
    steps, speed = record.number("es.steps"), record.number("es.steps_per_s")
    if steps is not None and speed is not None:
        facts.append(f"{counted(steps, 'step')} of the task were played, {count(speed)} a second.")
    return [Sentence(" ".join(facts), section)] if facts else []


def evolution_headline(record: Record, what: str) -> Sentence:
    """How far the return of theta came, in how many generations and evaluations."""
    _, centre = record.course("generation", "generation", "return.centre")
    last, size = record.number("es.final_return"), record.number("es.dimension")
    what = f"{what} ({counted(size, 'parameter')})" if size is not None else what
    effort = [counted(record.number(f"es.{noun}s") or 0, noun) for noun in ("generation", "evaluation")]
    took = f"{', '.join(effort)} and {duration(record.number('es.seconds'))}"
    if last is None:
        text = f"{what} was maximised for {took}; the return of the last theta is no finite number."
    elif not centre:
        text = f"{what} has return {compact(last)} after {took}."
    else:
        verb = "rose" if last > centre[0] else "fell" if last < centre[0] else "stayed, "
        text = f"The return of {what} {verb} from {compact(centre[0])} to {compact(last)} in {took}."
    return Sentence(text, headline=True)


def evolution_cost(record: Record, what: str) -> Table:
    """One line: what was tuned, with which algorithm, at what cost, and what went wrong on the way."""
    keys = ("workers", "dimension", "generations", "evaluations", "evaluations_per_s")
    no_result = record.summary.get("es.return_is")
    cells: tuple[Cell, ...] = (
        record.name,
        what,
        record.setting("algorithm"),
        Figure(None, why=str(no_result)) if no_result else compact(record.number("es.final_return")),
        *(compact(record.number(f"es.{key}")) for key in keys),
        " / ".join(count(went_wrong(record, key)) for key in WRONG),
        duration(record.number("es.seconds")),
    )
    columns = ("Run", "Objective", "Algorithm", "Final return", "Workers", "Parameters", "Generations", "Evaluations",
               "Evaluations/s", "Lost / again / failed", "Duration")  # fmt: skip
    return Table("Evolution", columns, (cells,), section=RUNS)


def went_wrong(record: Record, key: str) -> float | None:
    """In all: from the summary, else summed over the generations."""
    told = record.number(f"es.{key}")
    _, each = record.course("generation", "generation", key)
    return told if told is not None else sum(each) if each else None
