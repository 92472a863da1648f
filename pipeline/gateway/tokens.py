"""Bearer tokens and rate limits. Tokens are stored as SHA-256 digests, one file per token: a mounted Secret.

File name: the token's name, of lower-case letters, digits and hyphens; content: the digest in hex, followed by `all` for a token
that may see every job."""

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
class Principal:
    """The authenticated client. name: of its token, and owner of its jobs; sees_all: may see every job."""

    name: str
    sees_all: bool = False

    def may_see(self, owner: str | None) -> bool:
        return self.sees_all or (bool(owner) and owner == self.name)


ANONYMOUS = Principal("", sees_all=True)  # without authentication


def new_token() -> tuple[str, str]:
    """A new random token and its digest."""
    token = secrets.token_urlsafe(32)
    return token, digest(token)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Tokens:
    """The tokens of a folder, read again every REREAD_SECONDS. folder: None: no authentication."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.principals: dict[str, Principal] = {}
        self.read_at = float("-inf")

    def principal(self, authorization: str) -> Principal | None:
        """The principal of an Authorization header; None for an unknown token."""
        if self.folder is None:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        self._read()
        token_digest = digest(token.strip())
        return next(
            (principal for stored, principal in self.principals.items() if hmac.compare_digest(stored, token_digest)),
            None,
        )

    def _read(self) -> None:
        if self.folder is None or time.monotonic() - self.read_at < REREAD_SECONDS:
            return
        self.read_at = time.monotonic()
        principals = {}
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if file.is_file() and NAME.fullmatch(file.name):
                stored, *rights = file.read_text(errors="replace").lower().split() or [""]
                if DIGEST.fullmatch(stored):
                    principals[stored] = Principal(file.name, "all" in rights)
        self.principals = principals


class RateLimiter:
    """Token bucket per principal: `per_minute` requests per minute, bursts of as many. Per replica."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.buckets: dict[str, tuple[float, float]] = {}

    def wait(self, name: str) -> float:
        """Takes a token of the bucket. Returns 0, or the seconds until there is one."""
        now = time.monotonic()
        tokens, updated_at = self.buckets.get(name, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - updated_at) * self.per_minute / 60)
        if tokens < 1:
            self.buckets[name] = (tokens, now)
            return (1 - tokens) * 60 / self.per_minute
        self.buckets[name] = (tokens - 1, now)
        return 0.0
