"""Who may ask, and how much. A token is known by its SHA-256: one file per token, as Kubernetes mounts a Secret.

File name: the token's name, lower-case letters, digits and hyphens; content: the digest in hex, and `all` behind it for a token
that sees every job and not just its own."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

DIGEST = re.compile("[0-9a-f]{64}")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
REREAD_SECONDS = 10.0


@dataclass(frozen=True)
class Client:
    """Whoever stands behind a token. name: also the owner of the jobs."""

    name: str
    sees_all: bool = False

    def may_see(self, owner: str | None) -> bool:
        return self.sees_all or (bool(owner) and owner == self.name)


ANYBODY = Client("", sees_all=True)  # where authentication is off


def issue() -> tuple[str, str]:
    """A new token, and what the Secret gets of it."""
    token = secrets.token_urlsafe(32)
    return token, digest(token)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Tokens:
    """The tokens of a folder; files that come and go are noticed after a few seconds."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known: dict[str, Client] = {}
        self.read_at = float("-inf")

    def client(self, authorization: str) -> Client | None:
        """Who sends this Authorization header; None where nobody known does."""
        if self.folder is None:
            return ANYBODY
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        self._read()
        given = digest(token.strip())
        return next((client for known, client in self.known.items() if hmac.compare_digest(known, given)), None)

    def _read(self) -> None:
        if self.folder is None or time.monotonic() - self.read_at < REREAD_SECONDS:
            return
        self.read_at = time.monotonic()
        found = {}
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if file.is_file() and NAME.fullmatch(file.name):
                hashed, *rights = file.read_text(errors="replace").lower().split() or [""]
                if DIGEST.fullmatch(hashed):
                    found[hashed] = Client(file.name, "all" in rights)
        self.known = found


class Pace:
    """At most so many requests a minute for each client, a minute's worth at once. One replica counts for itself."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.left: dict[str, tuple[float, float]] = {}

    def wait(self, name: str) -> float:
        """Counts a request. Returns the seconds after which it would be allowed, 0 where it is."""
        now = time.monotonic()
        left, then = self.left.get(name, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - then) * self.per_minute / 60)
        if left < 1:
            self.left[name] = (left, now)
            return (1 - left) * 60 / self.per_minute
        self.left[name] = (left - 1, now)
        return 0.0
