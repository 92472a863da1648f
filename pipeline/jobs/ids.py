"""What jobs are called: thirteen characters of [0-9a-z], 67 bits, for names of workflows and for keys in S3.

Ids were eight characters once. Those of drops are the first eight of today's, so that what was done under one is found by it."""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH, OLD_LENGTH = 13, 8
KEY = "SIXVIEW_ID_KEY"  # environment: the secret that Idempotency-Keys are hashed with


def new_id() -> str:
    """Thirteen random characters of [0-9a-z]."""
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))


def id_from(*parts: str) -> str:
    """The id that follows from some words, the same each time. Whoever chooses the words can search for one id with another's
    beginning: nothing may be shown or overwritten on the strength of it alone."""
    return _spelled(hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest())


def keyed_id(*parts: str) -> str:
    """As id_from, under the secret of this installation: a client cannot compute which id its words lead to."""
    return _spelled(hmac.digest(secret(), "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256"))


def old_id(job: str) -> str:
    """The id that a drop had when ids were shorter."""
    return job[:OLD_LENGTH]


@functools.cache
def secret() -> bytes:
    """The secret in the environment; without one, a random one that ends with this process."""
    return os.environ.get(KEY, "").encode() or secrets.token_bytes(32)


def _spelled(digest: bytes) -> str:
    number = int.from_bytes(digest, "big")
    digits = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)
