"""What pydantic finds wrong, in the words of those who sent it."""

from collections.abc import Sequence
from typing import get_args

from app.degradations import Degradation

KINDS = {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(Degradation)[0])}


def field_of(location: Sequence[int | str]) -> str:
    """`degradation.0.factor` from ("degradation", 0, "downsample", "factor")."""
    steps = zip((None, *location), location, strict=False)
    return ".".join(str(step) for before, step in steps if not (isinstance(before, int) and step in KINDS))


def reason_of(message: str) -> str:
    """Without what pydantic puts before errors of our own."""
    return message.removeprefix("Value error, ")
