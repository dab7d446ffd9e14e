"""A queue whose head is a register, so that what is done with an entry begins at a register and not behind a memory."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Queue"]


class Queue(wiring.Component):
    """First in, first out; what is pushed into an empty queue is seen in the next cycle if it may go ``through``, as in
    :class:`amaranth.lib.fifo.SyncFIFO`, else in the one after that, as in :class:`amaranth.lib.fifo.SyncFIFOBuffered`.

    The entries behind the head are in a memory of ``depth - 1`` words, whose output is ``o_second``. All
    else that a user sees (``w_rdy``, ``r_rdy``, ``r_data``) is a register.

    A flag that follows from an entry alone is best pushed with it. One that follows from something else too can be a register all
    the same: in a cycle in which ``o_moves`` is high, the head of the next cycle is ``o_second`` if ``o_behind``, else what is
    pushed, if anything is and may go through; in other cycles it stays.

    Parameters
    ----------
    shape
        Shape of an entry.
    depth
        Entries, the head among them: 2 or more.
    through
        Whether an entry may come to the head without a stay behind it. That takes a selection for each of its bits, which is
        much for a whole instruction. (Of two entries and not through, one is taken every other cycle at most.)

    Members
    -------
    w_data, w_en, w_rdy
        Push; ignored without ``w_rdy``.
    r_data, r_rdy, r_en
        Head, and pop; ignored without ``r_rdy``. Without ``r_rdy`` the data have no meaning.
    o_moves, o_behind, o_second
        What becomes of the head.
    """

    def __init__(self, *, shape: object, depth: int, through: bool) -> None:
        self.shape = shape
        self.depth = depth
        self.through = through
        super().__init__(
            {
                "w_data": In(shape),
                "w_en": In(1),
                "w_rdy": Out(1),
                "r_data": Out(shape),
                "r_rdy": Out(1),
                "r_en": In(1),
                "o_moves": Out(1),
                "o_behind": Out(1),
                "o_second": Out(shape),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        head = Signal(self.shape, reset_less=True)
        valid = Signal()
        # how many are behind the head: as many ones, so that room and emptiness are registers
        places = self.depth - 1
        waiting = Signal(places)
        behind, full = waiting[0], waiting[-1]
        push = Signal()
        passes = Signal()
        takes = Signal()
        m.d.comb += [
            self.r_data.eq(head),
            self.r_rdy.eq(valid),
            self.w_rdy.eq(~full),
            self.o_behind.eq(behind),
            self.o_moves.eq(~valid | self.r_en),
            push.eq(self.w_en & ~full),
            takes.eq(self.o_moves & behind),
        ]
        if self.through:
            m.d.comb += passes.eq(self.o_moves & ~behind & push)
        m.d.sync += valid.eq(behind | passes | (valid & ~self.r_en))
        with m.If(push & ~passes & ~takes):
            m.d.sync += waiting.eq(Cat(1, waiting))
        with m.Elif(takes & ~push):
            m.d.sync += waiting.eq(waiting >> 1)
        with m.If(self.o_moves):
            m.d.sync += head.eq(Mux(behind, self.o_second, self.w_data) if self.through else self.o_second)

        if places == 1:
            second = Signal(self.shape, reset_less=True)
            m.d.comb += self.o_second.eq(second)
            with m.If(~full):
                m.d.sync += second.eq(self.w_data)
            return m

        m.submodules.storage = storage = memory.Memory(shape=self.shape, depth=places, init=[])
        read, write = storage.read_port(domain="comb"), storage.write_port()
        produce, consume = Signal(range(places)), Signal(range(places))
        m.d.comb += [
            read.addr.eq(consume),
            self.o_second.eq(read.data),
            write.addr.eq(produce),
            write.data.eq(self.w_data),
            # the next free place takes whatever is offered, until a push makes it an entry: so its enable is a register
            write.en.eq(~full),
        ]
        # an entry that goes through takes a place all the same
        with m.If(push):
            m.d.sync += produce.eq(Mux(produce == places - 1, 0, produce + 1))
        with m.If(takes | passes):
            m.d.sync += consume.eq(Mux(consume == places - 1, 0, consume + 1))
        return m
