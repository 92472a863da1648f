"""Job ids: thirteen characters of [0-9a-z] (67 bits), valid in workflow names and S3 keys.

Ids had eight characters in earlier versions. For drops these are the first eight of today's id, so that old records are found."""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH, LEGACY_LENGTH = 13, 8
KEY_VARIABLE = "SIXVIEW_ID_KEY"  # environment variable: the HMAC key for Idempotency-Keys


def new_id() -> str:
    """A random job id."""
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))


def id_from(*parts: str) -> str:
    """A job id from the SHA-256 of `parts`. Not a capability: who chooses the parts can search for collisions, so an equal id
    alone must neither show nor overwrite a job."""
    return _base36(hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest())


def keyed_id(*parts: str) -> str:
    """A job id from the HMAC of `parts` under the installation's secret: clients cannot compute it."""
    return _base36(hmac.digest(secret(), "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256"))


def legacy_id(job: str) -> str:
    """The eight-character id of the same drop in earlier versions."""
    return job[:LEGACY_LENGTH]


@functools.cache
def secret() -> bytes:
    """The HMAC key of the environment; without one, a random key for this process."""
    from pipeline.clients import environment

    return environment.cluster().sixview_id_key.get_secret_value().encode() or secrets.token_bytes(32)


def _base36(digest: bytes) -> str:
    quotient = int.from_bytes(digest, "big")
    digits = []
    for _ in range(ID_LENGTH):
        quotient, digit = divmod(quotient, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)
