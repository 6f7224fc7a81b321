"""Who may use the Ray that a job starts or joins.

Ray's ports listen on all interfaces, and whoever reaches one without a token may run code as this user: a local cluster
gets a token of its own, which only this process and those it starts know. A cluster that the environment names is
joined as RAY_AUTH_MODE says, with a token that nobody else can read. What the environment says wins.
"""

import os
import secrets
from pathlib import Path

from data.errors import UserError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def token_file() -> Path:
    return Path(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token").expanduser()


def check_token_file(path: Path) -> None:
    """Raise UserError if others than its owner can read the token."""
    if path.is_file() and path.stat().st_mode & 0o077:
        raise UserError(f"{path}: the token can be read by others (Ray writes it so); chmod 600 {path}")


def before_local_cluster() -> None:
    """Before ray.init of a cluster of one's own. Where no mode is set Ray sets it to token, there and in itself (once
    Ray is imported, it does not look into the environment again), and takes this token instead of writing a file."""
    if not os.environ.get(MODE):
        os.environ.pop(MODE, None)
        os.environ.setdefault(TOKEN, secrets.token_hex(32))


def after_local_cluster() -> None:
    assert os.environ.get(MODE), "Ray has started a cluster that is open to the network"


def before_named_cluster() -> None:
    """Before ray.init with RAY_ADDRESS. Raises UserError for a token file that others can read."""
    if os.environ.get(MODE, "").lower() == "token" and not os.environ.get(TOKEN):
        check_token_file(token_file())
