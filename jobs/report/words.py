"""Numbers as text, the sentences at the top, and the glossary."""

import math
from collections.abc import Sequence

from jobs.report.intervals import half_width
from jobs.report.runs import Run, comparable

DASH = "–"
MINUS = "−"

GLOSSARY = (
    (
        "Exposure",
        "One row of the log: an item shown to a user. D is all exposures (the entire space), O the clicked ones.",
    ),
    ("CTR, CVR, CTCVR", "Probability of a click; of a conversion if clicked; of click and conversion together."),
    (
        "Click space, entire space",
        "CVR can be judged on clicked exposures only (click space), or on all of them (entire space), which needs the "
        "potential conversion of exposures nobody clicked: known for generated data and a few public sets.",
    ),
    (
        "AUC",
        "Chance that a positive is ranked above a negative. 0.5 is a coin, 1 is perfect. Says nothing of the level.",
    ),
    ("Log-loss", "Mean cross-entropy of label and prediction, in nats; lower is better."),
    (
        "PCOC",
        "Predicted over observed: mean prediction divided by mean label. 1 is unbiased, 1.2 is 20% too high, "
        "0.8 is 20% too low.",
    ),
    ("Propensity", "Probability that an exposure is clicked, hence that its conversion label is seen at all."),
    (
        "Effective sample size",
        "(Σw)² / Σw² over clicks, w = 1/propensity: how many equally weighted clicks carry the same information.",
    ),
    ("Clip", "Propensities below this value are raised to it, which bounds the weights and costs some bias."),
    ("value@k, NDCG@k", "Reward of the k first candidates of a request, plain and discounted by rank and normalised."),
    (
        "Centre, population",
        "The centre is theta itself, evaluated without perturbation: what would be used. The population are the "
        "perturbed candidates of a generation; its best member is no measure of progress.",
    ),
    (
        "Fusion",
        "The formula that makes one ranking score of the model's scores; its parameters are what evolution tunes.",
    ),
    (
        "95% interval",
        "For fusion: bootstrap over held-out users. For AUC and PCOC (±): what the finite test sample alone allows; "
        "variation between seeds comes on top.",
    ),
)


def number(value: float | None, digits: int = 4, signed: bool = False) -> str:
    """Fixed digits, a true minus sign, a dash for None."""
    if value is None:
        return DASH
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def compact(value: float | None) -> str:
    """At most four significant digits, without exponents in the usual range: 0.8312, 12.35, 0.01, 5,310."""
    if value is None:
        return DASH
    size = abs(value)
    if size >= 1000 or (float(value).is_integer() and size < 1e15):
        return f"{value:,.0f}".replace("-", MINUS)
    if size and size < 1e-4:
        return f"{value:.2e}".replace("-", MINUS)
    text = number(value, min(7, max(0, 3 - math.floor(math.log10(size)))))
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A rate as %, three significant digits: 4.02%, 0.213%."""
    if value is None:
        return DASH
    size = abs(100 * value)
    digits = 0 if size >= 100 or size == 0 else min(4, max(0, 2 - math.floor(math.log10(size))))
    return f"{100 * value:.{digits}f}%".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(value: float, noun: str) -> str:
    return f"{value:,.0f} {noun}{'' if value == 1 else 's'}"


def train_headline(runs: Sequence[Run]) -> str:
    """One sentence: what was trained on how much, and how good conversion is where it is hardest to judge."""
    entire = any(run.number("cvr.entire.pcoc") is not None for run in runs)
    space = "cvr.entire" if entire else "cvr.click"
    place = "over the entire space" if entire else "in click space"
    pcoc = {run.name: value for run in runs if (value := run.number(f"{space}.pcoc")) is not None}
    auc = {run.name: value for run in runs if (value := run.number(f"{space}.auc")) is not None}
    trained = trained_on(runs)
    if not pcoc:
        return f"{trained}; {space}.pcoc is absent ({runs[0].why_absent(f'{space}.pcoc')})."
    best = min(pcoc, key=lambda name: abs(math.log(pcoc[name])) if pcoc[name] > 0 else math.inf)
    if len(runs) == 1:
        run = runs[0]
        tail = f" at AUC {with_half(run, space, 'auc', 4)}" if best in auc else ""
        text = f"{trained}; {place} its CVR has PCOC {with_half(run, space, 'pcoc', 3)} ({bias(pcoc[best])}){tail}."
    elif not comparable(runs, space):
        text = f"{trained}; they were judged on different rows, so their figures cannot be compared."
    else:
        others = sorted(value for name, value in pcoc.items() if name != best)
        limits = " to ".join(number(value, 3) for value in sorted({*others[:1], *others[-1:]}))
        spread = f" (the other{'s' if len(others) > 1 else ''}: {limits})" if others else ""
        by_name = {run.name: run for run in runs}
        level = with_half(by_name[best], space, "pcoc", 3)
        text = f"{trained}; {place} the CVR of {best} is nearest to unbiased, PCOC {level}{spread}"
        if auc:
            top = max(auc, key=lambda name: auc[name])
            who = "it also" if top == best else top
            text += f", and {who} has the highest AUC, {with_half(by_name[top], space, 'auc', 4)}"
        text += "."
    if not entire:
        text += f" The entire space cannot be judged: {runs[0].why_absent('cvr.entire.pcoc').rstrip('.')}."
    return text


def with_half(run: Run, space: str, metric: str, digits: int) -> str:
    """1.062 ± 0.037, not to be broken over lines."""
    value = run.number(f"{space}.{metric}")
    half = half_width(metric, value or 0.0, run.number(f"{space}.count"), run.number(f"{space}.positives"))
    return number(value, digits) + (f"\u00a0±\u00a0{number(half, digits)}" if half is not None else "")


def trained_on(runs: Sequence[Run]) -> str:
    run = runs[0]
    if len(runs) == 1:
        model = " on ".join(word for word in (run.setting("objective"), run.setting("backbone")) if word)
        what = f"{model or run.name} was trained"
    else:
        what = f"{len(runs)} models were trained"
    rows = {((r.record.get("data") or {}).get("parts") or {}).get("train", {}).get("rows") for r in runs}
    workers = {r.number("train.workers") for r in runs}
    if len(rows) == 1 and None not in rows:
        what += f" on {counted(rows.pop(), 'exposure')}"
    if len(workers) == 1 and None not in workers:
        what += f" by {counted(workers.pop() or 0, 'worker')}"
    return what


def bias(pcoc: float) -> str:
    if abs(pcoc - 1) < 0.0005:
        return "unbiased on average"
    return f"predictions {percent(abs(pcoc - 1))} too {'high' if pcoc > 1 else 'low'} on average"


def fusion_headline(run: Run, k: int) -> str:
    """One sentence: the gain of the tuned fusion over the stronger of its two rivals, and whether it is significant."""
    key = f"fusion.value_at_{k}"
    rival = stronger_rival(run, k)
    gain = run.number(f"{key}.gain_over_{rival}")
    if gain is None:
        return f"Fusion was tuned; its gain in value@{k} is absent ({run.why_absent(f'{key}.gain_over_{rival}')})."
    low, high = run.number(f"{key}.gain_over_{rival}.low"), run.number(f"{key}.gain_over_{rival}.high")
    single = run.summary.get("fusion.best_single_name")
    against = "the untuned fusion" if rival == "untuned" else f"the best single score{f' ({single})' if single else ''}"
    users = run.number("fusion.test_users")
    where = f" on {counted(users, 'held-out user')}" if users is not None else ""
    text = f"Tuning the fusion changes value@{k} by {number(gain, signed=True)}"
    if low is not None and high is not None:
        text += f" (95% interval {number(low, signed=True)} to {number(high, signed=True)})"
    return f"{text} against {against}{where}: {verdict(low, high, run.summary.get('fusion.significant'))}."


def objective_name(run: Run) -> str:
    """rosenbrock; valley.py:Valley of a file; control CartPole-v1 of a task."""
    name = (run.setting("objective") or run.name).rsplit("/", 1)[-1]
    task = run.setting("env")
    return f"{name} {task}" if task else name


def objective_headline(run: Run) -> str:
    """One sentence: how far the return of theta came, in how many generations and evaluations."""
    name = objective_name(run)
    _, centre = run.series("generation", "generation", "return.centre")
    last, size = run.number("es.final_return"), run.number("es.dimension")
    what = f"{name} ({counted(size, 'parameter')})" if size is not None else name
    effort = [counted(run.number(f"es.{noun}s") or 0, noun) for noun in ("generation", "evaluation")]
    took = f"{', '.join(effort)} and {duration(run.number('es.seconds'))}"
    if last is None:
        return f"{what} was maximised for {took}; the return of the last theta is no finite number."
    if not centre:
        return f"{what} has return {compact(last)} after {took}."
    verb = "rose" if last > centre[0] else "fell" if last < centre[0] else "stayed, "
    return f"The return of {what} {verb} from {compact(centre[0])} to {compact(last)} in {took}."


def objective_facts(run: Run) -> str:
    """What a panel would show as a flat line and the steps played, in sentences; first the run's verdict, if any."""
    facts = [str(run.summary["off_policy.message"])] if run.summary.get("off_policy.message") else []
    sigmas = set(run.series("generation", "generation", "sigma")[1])
    if len(sigmas) == 1:
        facts.append(f"Sigma is {compact(sigmas.pop())} throughout.")
    lost = [run.number(f"es.{key}") for key in ("lost_pairs", "reissued_pairs", "failed_evaluations")]
    if not any(lost):
        facts.append("No pair was lost or issued again, and no evaluation failed.")
    steps, speed = run.number("es.steps"), run.number("es.steps_per_s")
    if steps is not None and speed is not None:
        facts.append(f"{counted(steps, 'step')} of the task were played, {count(speed)} a second.")
    return " ".join(facts)


def stronger_rival(run: Run, k: int) -> str:
    untuned, single = (run.number(f"fusion.value_at_{k}.{who}") for who in ("untuned", "best_single"))
    return "best_single" if single is not None and (untuned is None or single > untuned) else "untuned"


def verdict(low: float | None, high: float | None, flag: object = None) -> str:
    if low is None or high is None:
        return "a significant change" if flag is True else "not significant"
    if low > 0:
        return "a significant gain"
    if high < 0:
        return "a significant loss"
    return "not significant, the interval includes zero"
