"""What jobs are called: eight characters of [0-9a-z], for names of workflows and for keys in S3."""

from __future__ import annotations

import hashlib
import secrets

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 8


def new_id() -> str:
    """Eight random characters of [0-9a-z]."""
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))


def id_from(*parts: str) -> str:
    """The id that follows from some words, the same each time."""
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest(), "big")
    digits = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)
