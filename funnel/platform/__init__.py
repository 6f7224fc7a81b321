"""A recommending platform in miniature: users, items, providers and the stages of a funnel in a closed loop.

    population.py   who is there: users, items, providers, and what new uploads look like (drawn from addressed bits)
    settings.py     PlatformSettings: sizes and the constants of the world's equations
    view.py         what policies may see: Requests, View, Feedback
    stages.py       the interfaces of the stages, Policies (one of each), and how they are named in JSON
    matching.py preranking.py ranking.py fusion.py slot.py reranking.py    the plain defaults, one stage a file
    behaviour.py    a user looks down the page: click, dwell, like, purchase, next
    corpus.py       counters of the shared corpus, their daily snapshot, and what a learner would know of an item
    world.py        World: days, ticks, rounds of pages; arms
    figures.py      what is counted each day and arm, and the metrics made of it
    experiment.py   user-diverted and user-corpus co-diverted tests in pairs of worlds
    numbers.py draws.py    arithmetic and randomness that give the same bits on every machine

A request passes: matching (some 500 items) -> pre-ranking (60) -> ranking -> fusion -> page (10, one slot of it may go
to a fresh item) -> re-ranking, item by item, while the user looks down the page.
"""
