"""A reset that comes from a register alone."""

from __future__ import annotations

import weakref
from typing import Any

from amaranth import ResetInserter

__all__ = ["OwnReset"]


class OwnReset(ResetInserter):
    """Have the registers of a component reset by a signal in place of the reset of their clock domain, and not besides.

    With both there is a table behind the signal that joins the two, on the longest wire of the design; with one, the wire begins at
    a register, and copies of that register can stand wherever there is something to reset. So the signal must be high after a reset
    of the domain, for a cycle at least.

    A component can be wrapped, and elaborated, once: its registers know from then on that the domain does not reset them.
    """

    #: Registers that were wrapped, by their identities.
    _wrapped: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def _insert_control(self, fragment: Any, domain: str, lhs_masks: Any) -> None:
        super()._insert_control(fragment, domain, lhs_masks)
        # (a register comes once for each run of its bits that is driven)
        for signal in {id(signal): signal for signal, _, _ in lhs_masks.chunks()}.values():
            if id(signal) in self._wrapped:
                raise RuntimeError(f"register {signal.name} has a reset of its own already: a component is wrapped once")
            self._wrapped[id(signal)] = signal
            signal._reset_less = True
