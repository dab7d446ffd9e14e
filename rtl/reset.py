"""A reset that comes from a register alone."""

from __future__ import annotations

from typing import Any

from amaranth import ResetInserter

__all__ = ["OwnReset"]


class OwnReset(ResetInserter):
    """Have the registers of a component reset by a signal in place of the reset of their clock domain, and not besides.

    With both there is a table behind the signal that joins the two, on the longest wire of the design; with one, the wire begins at
    a register, and copies of that register can stand wherever there is something to reset. So the signal must be high after a reset
    of the domain, for a cycle at least.

    A component that is wrapped may be elaborated once: its registers know from then on that the domain does not reset them.
    """

    def _insert_control(self, fragment: Any, domain: str, lhs_masks: Any) -> None:
        super()._insert_control(fragment, domain, lhs_masks)
        for signal, _, _ in lhs_masks.chunks():
            signal._reset_less = True
