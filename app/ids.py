"""Identifiers that sort by time of creation."""

import os
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """`prefix_` and 26 characters of Crockford base 32: 48 bits of milliseconds, 80 random bits (a ULID)."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return f"{prefix}_" + "".join(ALPHABET[value >> 5 * i & 31] for i in reversed(range(26)))
