"""Logs that a world emits, in the project's schema (data/schema.py), written while it runs.

exposures   a row an item that was looked at, with the truth: what jobs.train trains the ranker on
stages      whole requests: what was shown, what ranking and what pre-ranking left out (RecFlow's column names)
sessions    whole visits, their items in the order in which they were looked at: for re-ranking
"""
