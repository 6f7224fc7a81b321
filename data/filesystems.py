"""Where a log lies: a local path, or a URI of any filesystem that pyarrow or else fsspec has a client for.

    /data/log   file:///data/log   s3://bucket/log?region=eu-west-1   gs://bucket/log   hdfs://host:8020/log   abfs://...

Credentials come from where the client looks for them (AWS_ACCESS_KEY_ID, a profile, the machine's role), never from
the URI: that is written into run directories (data/credentials.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs

from data.credentials import check_no_secret, shown
from data.errors import UserError

GCS = ("gs", "gcs")
GCS_RETRY_S = 60  # pyarrow's own limit is 15 minutes, long for a misspelt bucket
IN_PROCESS = "memory"

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a file that is damaged or of another format; names in a broken footer may be no UTF-8."""


def resolve(location: str) -> tuple[Any, str]:
    """(filesystem, path inside it) of a local path or a URI. Raises UserError in one line where there is none."""
    check_no_secret(location)
    if "://" not in location:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    parts, uri = urlsplit(location), location
    if parts.scheme in GCS and "retry_limit_seconds" not in parts.query:
        query = f"{parts.query}&" if parts.query else ""
        uri = urlunsplit(parts._replace(query=f"{query}retry_limit_seconds={GCS_RETRY_S}"))
    with reading(shown(location)):
        try:
            filesystem, root = pafs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid as unknown:
            # Only logs on filesystems that pyarrow has no client for need fsspec.
            try:
                import fsspec

                found, root = fsspec.core.url_to_fs(location)
            except (ImportError, ValueError) as error:
                lines = f"{first_line(unknown)}; {first_line(error)}"
                raise UserError(f"{shown(location)}: no filesystem for this URI ({lines})") from None
            filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(found))
        if not root.strip("/"):
            raise UserError(f"{shown(location)}: names no bucket or directory")
        return filesystem, root.rstrip("/")


def in_process(location: str) -> bool:
    """Whether only this very process can see the location (fsspec's memory://)."""
    return urlsplit(location).scheme == IN_PROCESS


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what a filesystem's client raises (no network, no permission) into a UserError that opens with `where`."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{where}: cannot be read ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
