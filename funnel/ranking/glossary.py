"""Words of the ranker's pages, for readers who meet them for the first time."""

TERMS = (
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
    (
        "Precision, recall, F1",
        "A row is called positive where its prediction reaches a threshold (the mean label, unless the settings name "
        "one). Precision: how many of those are; recall: how many of the positives are among them; F1: the harmonic "
        "mean of both.",
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
)
