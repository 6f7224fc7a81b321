"""Whether the cluster that RAY_ADDRESS names is there, found out within seconds: Ray itself would wait for minutes."""

import os
import socket
import urllib.parse
from pathlib import Path

import grpc

from data.errors import UserError

CONNECT_S = 2.0
"""For a TCP connection to the head."""
SPEAK_S = 8.0
"""For the head's first words, once it is connected to: a busy one is slow, and another server never says them."""
QUIET = (("grpc.enable_http_proxy", 0),)


def check_answers(address: str) -> None:
    """Raise UserError, in one line, where RAY_ADDRESS is no address or nothing that is Ray's answers there.

    HOST:PORT of a head, ray://HOST:PORT of a Ray client server, or auto: the cluster of this machine.
    """
    front = f"RAY_ADDRESS={address}:"
    if address == "auto":
        address = latest_cluster()
        if not address:
            return  # Ray looks for one among this machine's processes, and says at once if there is none
        front = f"RAY_ADDRESS=auto: the last cluster of this machine, {address}, is gone;"
    scheme, _, place = address.rpartition("://")
    host, port = host_and_port(place)
    if scheme not in ("", "ray") or not host or port is None:
        what = "is a dashboard's; " if scheme in ("http", "https") else ""
        raise UserError(f"{front} {what}write HOST:PORT of the cluster's head, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        raise UserError(f"{front} no Ray cluster answers there ({reason(error)}); unset it to start one here") from None
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # only Ray has the certificates
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(target, QUIET) as channel:
        try:
            grpc.channel_ready_future(channel).result(SPEAK_S)
        except grpc.FutureTimeoutError:
            raise UserError(
                f"{front} what answers there is no Ray head; write HOST:PORT of the head, whose port is 6379 by default"
            ) from None


def host_and_port(place: str) -> tuple[str, int | None]:
    try:
        parts = urllib.parse.urlsplit(f"//{place}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def latest_cluster() -> str:
    """What `ray start` has noted on this machine, if none of its heads runs: for "auto" Ray would then go there."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == "gcs_server":
                return ""
        except OSError:
            continue
    noted = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    return noted.read_text().strip() if noted.is_file() else ""


def reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_S:.0f} s"
    return (error.strerror or str(error)).lower()
