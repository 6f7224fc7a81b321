"""Credentials in addresses: found by what they are, so that they are refused before any file or log keeps them.

    check_no_secret("s3://key:secret@bucket/log")            # userinfo, of any scheme, of any URI inside the text
    check_no_secret("https://host/log?api_key=...")          # a parameter whose name means a secret, in ? or # or ;
    check_no_secret("s3://b/log?endpoint_override=http://u:p@host")     # the same inside a parameter's value
    check_no_secret("https://host/log?x=eyJhbGciOi...")      # a value that looks drawn at random

A path names no secret: s3://bucket/author=1/key=2/ is a partition. Case, separators and percent-encoding make no
difference. Messages repeat nothing but the scheme and the name of the parameter.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from data.errors import UserError

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/+")
"""Where a URI begins. A pathlib.Path has made one slash of two."""
CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")
"""Schemes of container@account."""
USERS = ("hdfs", "viewfs", "webhdfs", "swebhdfs", "sftp", "ssh", "smb", "postgresql", "postgres", "mysql", "mssql")
"""Schemes in which name@host says who comes; how that is proved stands elsewhere."""
BUCKETS = ("s3", "s3a", "s3n", "gs", "gcs", "oss", "cos", "r2", "b2", "az", "adl")
"""Schemes of bucket/key: there is no port, so a colon before the first slash is a key's."""
# fmt: off
WORDS = frozenset((
    "key", "keys", "keyid", "sig", "sas", "pw", "pwd", "pwds", "pass", "jwt", "cred", "creds", "pin", "otp", "auth",
    "oauth", "session", "cookie", "bearer", "hmac", "nonce",
))
"""Words of a parameter's name that mean a secret where they stand alone: account_key, userPwd."""
PARTS = (
    "secret", "token", "passw", "passphrase", "credential", "signature", "apikey", "accesskey", "accountkey",
    "privatekey", "sharedaccess", "sessionid", "authoriz", "authoris", "authentic", "bearer", "assertion", "xamz",
    "xgoog",
)
# fmt: on
"""What means a secret wherever it stands in a name without its separators."""
HARMLESS = ("versionid", "etag", "generation", "snapshot", "checksum", "sha256", "md5", "crc32c")
"""Parameters whose values are long and random, and public."""
RANDOM = re.compile(r"AKIA\w{8,}|ASIA\w{8,}|eyJ[\w\-]{10,}.*|gh[pousr]_\w{16,}|sk-[\w\-]{16,}|xox\w-[\w\-]{10,}")
"""How keys and tokens of well-known issuers begin."""
HELP = "leave it to the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for example)"


def check_no_secret(text: str, what: str = "") -> None:
    """Raise UserError of one line, without the secret, if an address in the text holds one. `what`: opens the line."""
    found = secret_in(text)
    if found:
        raise UserError(f"{what or shown(text)}: the URI holds {found}, which run directories would keep; {HELP}")


def check_words(words: Iterable[str]) -> None:
    """check_no_secret of every word of a command line, whichever option it belongs to."""
    option = ""
    for word in words:
        option = word.partition("=")[0] if word.startswith("--") else option
        check_no_secret(word, (option or shown(word)) if secret_in(word) else "")


def check_tree(tree: Any, where: str) -> None:
    """check_no_secret of every text in an object that a file holds or will hold, keys included. `where`: the file."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            check_tree(key, where)
            check_tree(value, where)
    elif isinstance(tree, list | tuple):
        for value in tree:
            check_tree(value, where)
    elif isinstance(tree, str | os.PathLike):
        check_no_secret(os.fspath(tree), where)


def secret_in(text: str) -> str:
    """What of the text is a secret, in words that do not repeat it; "" if nothing is."""
    for reading in readings(text):
        starts = [match.start() for match in URI.finditer(reading)]
        # A connection string is no URI: AccountName=a;AccountKey=...
        found = "" if starts or ";" not in reading else secret_parameter(reading)
        for start in starts:
            found = found or secret_of_uri(reading[start:])
        if found:
            return found
    return ""


def readings(text: str) -> list[str]:
    """The text as it stands, and with its percent-encoding undone as often as there is any."""
    found = [text]
    while len(found) < 6 and (plain := unquote(found[-1])) != found[-1]:
        found.append(plain)
    return found


def secret_of_uri(uri: str) -> str:
    scheme, rest = re.split(r":/+", uri, maxsplit=1)
    scheme = scheme.lower()
    authority = re.split(r"[/?#\s\"']", rest, maxsplit=1)[0]
    kind = scheme.split("+")[0]
    user, at, _ = authority.rpartition("@")
    if scheme != "file" and at:
        if ":" in user:
            return "a password or a secret key"
        named = kind in USERS or (kind in CONTAINERS and re.fullmatch(r"\$?[a-z0-9\-]{3,63}", user))
        if not named or random(user):
            return "credentials before the '@'"
    # A secret key may hold a slash, s3://key:sec/ret@bucket: then the authority seems to end in the middle of it.
    _, colon, port = authority.rpartition(":")
    inside = "@" in rest and not port.isdigit()
    if colon and not at and not authority.endswith("]") and (kind in BUCKETS or inside):
        return "a password or a secret key"
    _, mark, parameters = re.sub(r"[?#]", "\n", rest).partition("\n")
    return secret_parameter(parameters) if mark else ""


def secret_parameter(parameters: str) -> str:
    """Of a=1&b=2, with any of the separators that are in use."""
    for pair in re.split(r"[\n&;,]", parameters):
        key, equals, value = pair.partition("=")
        if equals and means_secret(key):
            return f"{key.strip()[:40]!r}, which looks like a secret"
        value = value if equals else key
        name = re.sub(r"[^a-z0-9]", "", key.lower())
        if re.search(r"[^/@\s:]+:[^@\s]*@", value) or (name.startswith("endpoint") and "@" in value):
            return "a password or a secret key" + (f" in {key.strip()[:40]!r}" if equals else "")
        if random(value) and not (equals and name in HARMLESS):
            return f"a value that looks like a secret{f', in {key.strip()[:40]!r}' if equals else ''}"
    return ""


def means_secret(name: str) -> bool:
    """Whether a parameter of this name holds a secret: api_key, AccountKey, X-Amz-Signature, client.secret."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    joined = re.sub(r"[^a-z0-9]", "", name.lower())
    return (
        any(word.lower() in WORDS for word in words)
        or any(part in joined for part in PARTS)
        or joined in WORDS
        or joined.endswith(("key", "keyid", "pwd", "passwd", "sig", "jwt", "auth"))
    )


def random(value: str) -> bool:
    """Whether the text looks drawn at random, as keys and tokens are, and neither a path nor a host nor a word."""
    if RANDOM.fullmatch(value):
        return True
    if value.startswith("/") or not re.fullmatch(r"[A-Za-z0-9+/_\-]{20,}={0,2}", value):
        return False
    mixed = all(re.search(kind, value) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return mixed or (len(value) >= 32 and re.fullmatch(r"[0-9a-fA-F]+", value) is not None)


def shown(location: str) -> str:
    """The location as messages have it: without parameters and without credentials."""
    if not secret_in(location):
        return re.split(r"[?#]", location, maxsplit=1)[0] if URI.search(location) else location
    place = re.split(r"[?#]", location, maxsplit=1)[0]
    # A password may hold anything: where the place has one, the last @ of all ends it, else that of the place.
    without = re.sub(r"(:/+).*@", r"\1", location) if secret_in(place) else place
    plain = re.split(r"[?#]", without, maxsplit=1)[0]
    host = re.search(r":/+([^/]*)", plain)
    if host and not secret_in(plain) and re.fullmatch(r"([^:]|\[.*\])*(:\d*)?", host[1]):
        return plain
    return "the address"
