"""Coordinates in which what happened to a frame is diagonal."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from worker.solver.dct import dct, inverse_dct


class Rotation(Protocol):
    """Q^T, which takes a frame to the coordinates where B B^T is diagonal, the coarsest first."""

    def forth(self, frame: Tensor) -> Tensor:
        """(C, H', W') -> (C, H', W')."""

    def back(self, frame: Tensor) -> Tensor:
        """The inverse, which is Q."""


class Cosines:
    """The DCT."""

    def forth(self, frame: Tensor) -> Tensor:
        return dct(frame)

    def back(self, frame: Tensor) -> Tensor:
        return inverse_dct(frame)


@dataclass(frozen=True)
class Lines:
    """A rotation of rows and one of columns, (H', H') and (W', W')."""

    rows: Tensor
    columns: Tensor

    def forth(self, frame: Tensor) -> Tensor:
        return self.rows @ frame @ self.columns.T

    def back(self, frame: Tensor) -> Tensor:
        return self.rows.T @ frame @ self.columns
