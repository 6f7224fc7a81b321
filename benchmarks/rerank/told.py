"""What a session tells of its next item, in plain logistic regressions on the log of benchmarks/rerank/worlds.py.

    python benchmarks/rerank/told.py        # seconds

Features of the item alone; then how the session has gone so far (clicks above the mean, how many items): the same for
every candidate, so it changes no order; then clicks above the mean weighed by how alike the contents are, which differ
between candidates; then the same by category, with how many of the last three were of it. Fitted on half of the
sessions of the log's test part, judged on the other half. A network's figures stand in rerank-scorers.
"""

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.bench import markdown, write_result
from benchmarks.rerank.worlds import logs
from data.log import open_log

BACK, NEAR, DIMENSIONS = 16, 3, 8
COLUMNS = ("visit_id", "click", "effective_view", "item_category", "rank_score", "item_length", "item_popularity",
           "item_rating", *(f"content_{d}" for d in range(DIMENSIONS)))  # fmt: skip


def features(world: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(session, effective view, {name: columns}) of every row of the test part."""
    log = open_log(logs(world))
    parts = list(log.read(log.part("test"), list(COLUMNS)))
    of = {name: np.concatenate([part.column(name).to_numpy().astype(np.float64) for part in parts]) for name in COLUMNS}
    content = np.stack([of[f"content_{d}"] for d in range(DIMENSIONS)], 1)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    session, category, click = of["visit_id"], of["item_category"], of["click"] - of["click"].mean()
    row = np.arange(len(session))
    begins = np.concatenate([[True], session[1:] != session[:-1]])
    place = row - np.maximum.accumulate(np.where(begins, row, 0))
    level, alike, same = (np.zeros((len(row), 2)) for _ in range(3))
    for back in range(1, BACK + 1):
        one = np.flatnonzero(place >= back)
        other = one - back
        cosine, equal = (content[one] * content[other]).sum(1), category[one] == category[other]
        level[one] += np.stack([click[other], np.ones(len(one))], 1)
        alike[one] += np.stack([click[other] * cosine, cosine], 1)
        same[one] += np.stack([click[other] * equal, equal * (back <= NEAR)], 1)
    item = [of["rank_score"], np.log(of["item_length"]), of["item_popularity"], of["item_rating"]]
    return session, of["effective_view"], {"item": np.stack(item, 1), "level": level, "alike": alike, "same": same}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    session, label, known = features("moods")
    fitted, used, rows = session % 2 == 0, [], []
    for name, what in (
        ("item", "the item alone"),
        ("level", "and how the session has gone"),
        ("alike", "and clicks on items of like content"),
        ("same", "and on items of the category"),
    ):
        used.append(known[name])
        x = np.concatenate(used, 1)
        x = (x - x[fitted].mean(0)) / x[fitted].std(0)
        x = np.concatenate([x, 0.3 * x**2], 1)
        chance = LogisticRegression(max_iter=300).fit(x[fitted], label[fitted]).predict_proba(x[~fitted])[:, 1]
        rows.append([what, round(log_loss(label[~fitted], chance), 5), round(roc_auc_score(label[~fitted], chance), 4)])
    header = ["features", "log-loss of effective views", "AUC"]
    write_result("rerank-told", {"rows": len(label), "table": rows}, markdown(header, rows))


if __name__ == "__main__":
    main()
