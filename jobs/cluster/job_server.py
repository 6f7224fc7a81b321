"""Ray's client of a cluster's job server, with one clear line within seconds where there is none or it refuses us."""

import http.client
import logging
import os
import urllib.error
import urllib.parse
import urllib.request

from ray.job_submission import JobSubmissionClient

from data.errors import UserError
from jobs.cluster.authentication import check_token_file, token_file

ANSWER_S = 3.0  # Ray's client would wait for ever for a server that takes the connection and does not answer
TOKEN_HELP = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's token (or ~/.ray/auth_token)"


def connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at http(s)://HOST:PORT. Raises UserError if there is none or it refuses our token."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--address {address!r}: write http://HOST:PORT of the cluster's dashboard, such as :8265")
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_S):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            check_token(address)
        elif error.code == 404:
            raise UserError(f"--address {address}: answers, but is not a Ray dashboard") from None
    except (OSError, http.client.HTTPException) as error:  # the latter: another server, or no port
        reason = getattr(error, "reason", error)
        raise UserError(f"--address {address}: no Ray dashboard answers there ({str(reason).strip()})") from None
    try:
        client = JobSubmissionClient(address)
    except Exception as error:  # of many kinds; Ray's authentication error is one
        if "uthentication" in f"{type(error).__name__} {error}":
            raise UserError(f"the cluster at {address} refuses the token; {TOKEN_HELP}") from None
        raise UserError(f"--address {address}: {error}") from None
    logging.getLogger("ray").setLevel(logging.ERROR)  # it names every file that it does not pack
    return client


def check_token(address: str) -> None:
    """The server wants a token. Raises UserError if this process was given none, or one that others can read."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise UserError(f"the cluster at {address} wants a token; {TOKEN_HELP}")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    if not token_file().is_file():
        raise UserError(f"{token_file()}: no such token file; {TOKEN_HELP}")
    check_token_file(token_file())
