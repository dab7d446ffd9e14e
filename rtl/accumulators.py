"""The accumulators: where the array's sums and the bypassed bytes are added up."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.isa import Operation
from rtl.ram import ram

__all__ = ["READ_LATENCY", "REVISIT", "Accumulators", "control_layout", "drain_layout"]

#: Cycles that must pass between two accumulations into one word: read, register, add, write.
REVISIT = 4

#: Cycles from ``i_drain`` to ``o_lanes``.
READ_LATENCY = 3


def control_layout(shifts: int) -> data.StructLayout:
    """Return what goes with a pixel: where its results are added, and how.

    ``shift`` selects the rows that bypass the array: column c takes row ``c + shift * columns``. ``last`` marks an instruction's
    last pixel. ``drop``: nothing is written. ``forward``: the sum so far is that of the pixel one cycle before, not the memory's
    (never together with ``overwrite``).
    """
    return data.StructLayout(
        {
            "valid": 1,
            "last": 1,
            "drop": 1,
            "overwrite": 1,
            "forward": 1,
            "operation": Operation,
            "shift": range(shifts),
            "address": 16,
        }
    )


def drain_layout(groups: int) -> data.StructLayout:
    """Return a read by the output stage: a word, and the group of columns wanted of it."""
    return data.StructLayout({"address": 16, "group": range(groups)})


class Accumulators(wiring.Component):
    """``columns`` banks of 32-bit sums in two halves; column c works one cycle after column c-1.

    ``i_control`` comes together with the scratchpad's ``i_pixel``; it waits here for its results to come through the array (or past
    it). A word may be accumulated again ``REVISIT`` cycles later (or, with ``forward``, in the next). While one half is being
    accumulated the other is free to be drained. ``o_done`` is high for one cycle when the last pixel of an instruction is in
    memory.

    Parameters
    ----------
    rows, columns
        Size of the array.
    depth
        Words in each half: a power of two. The half is the address bit above.
    lanes
        Columns read together by the output stage.
    width
        Bits of the array's sums.

    Members
    -------
    i_control
        What to do with the pixel.
    i_sums
        From the array, for each column.
    i_bytes
        From the scratchpad, for each row.
    i_drain
        Read of the output stage, from a half that is not being accumulated.
    o_lanes
        What it read, ``READ_LATENCY`` cycles later.
    o_done
        An instruction has finished.
    """

    def __init__(self, *, rows: int, columns: int, depth: int, lanes: int, width: int) -> None:
        self.rows = rows
        self.columns = columns
        self.depth = depth
        self.lanes = lanes
        self.width = width
        self.shifts = -(-rows // columns)
        super().__init__(
            {
                "i_control": In(control_layout(self.shifts)),
                "i_sums": In(data.ArrayLayout(signed(width), columns)),
                "i_bytes": In(data.ArrayLayout(signed(8), rows)),
                "i_drain": In(drain_layout(columns // lanes)),
                "o_lanes": Out(data.ArrayLayout(signed(32), lanes)),
                "o_done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = (self.depth - 1).bit_length()
        layout = control_layout(self.shifts)

        # A sum comes out of column 0 rows + 6 cycles after the pixel was given and is added by the third stage below; a byte that
        # bypasses the array comes out 5 cycles after, and one more for each row above its own.
        line: list[tuple[Value, data.View]] = [(self.i_control.valid, self.i_control)]
        for n in range(self.rows + 3):
            waits, stage = Signal(name=f"waits_{n}"), Signal(layout, name=f"waiting_{n}", reset_less=True)
            m.d.sync += [waits.eq(line[-1][0]), stage.eq(line[-1][1])]
            line.append((waits, stage))
        arrivals = [(*line[-1], line[-1][1].operation == Operation.ARRAY)]
        for shift in range(self.shifts):
            came, control = line[2 + shift * self.columns]
            arrivals.append((came, control, (control.operation != Operation.ARRAY) & (control.shift == shift)))

        # Column c reads, adds and writes one, two and three cycles after its control came; its neighbour does so a cycle later. So
        # one chain serves all columns. What they ask of it is worked out before, so that the adder has its cycle to itself.
        events = data.StructLayout({"valid": 1, "reads": 2, "writes": 2, "last": 1})
        manner = data.StructLayout(
            {
                "address": bits,
                "from_array": 1,
                # the sum so far: from the memory of a half, from the pixel before, or none
                "kept": 1,
                "half": 1,
                "forward": 1,
                "maximum": 1,
                "low": 1,
                "high": 1,
                "shift": range(self.shifts),
            }
        )
        event, how = Signal(events, name="event_0"), Signal(manner, name="how_0", reset_less=True)
        m.d.sync += event.eq(0)
        for came, control, arrived in arrivals:
            with m.If(came & arrived):
                half = control.address[bits]
                m.d.sync += [
                    event.valid.eq(1),
                    event.reads.eq(Cat(~half, half)),
                    event.writes.eq(Cat(~half, half) & (~control.drop).replicate(2)),
                    event.last.eq(control.last),
                    how.address.eq(control.address[:bits]),
                    how.from_array.eq(control.operation == Operation.ARRAY),
                    how.kept.eq(~control.overwrite & ~control.forward),
                    how.half.eq(half),
                    how.forward.eq(control.forward),
                    how.maximum.eq((control.operation == Operation.MAX) & ~control.overwrite),
                    how.low.eq(control.operation == Operation.LOW),
                    how.high.eq(control.operation == Operation.HIGH),
                    how.shift.eq(control.shift),
                ]
        chain = [(event, how)]
        for n in range(1, self.columns + 3):
            following = Signal(events, name=f"event_{n}"), Signal(manner, name=f"how_{n}", reset_less=True)
            m.d.sync += [later.eq(sooner) for later, sooner in zip(following, chain[-1], strict=True)]
            chain.append(following)

        drained = [[Signal(32, name=f"drained_{h}_{c}", reset_less=True) for c in range(self.columns)] for h in range(2)]
        for c in range(self.columns):
            (reading, at), (_, taking), (added, adding), (writing, to) = chain[c : c + 4]

            byte = Signal(signed(8), name=f"byte_{c}")
            m.d.comb += byte.eq(self.i_bytes[c] if c < self.rows else 0)
            for shift in range(1, self.shifts):
                row = c + shift * self.columns
                with m.If(taking.shift == shift):
                    m.d.comb += byte.eq(self.i_bytes[row] if row < self.rows else 0)
            bypass = Signal(signed(17), name=f"bypass_{c}", reset_less=True)
            with m.If(taking.low):
                m.d.sync += bypass.eq(byte.as_unsigned())
            with m.Elif(taking.high):
                m.d.sync += bypass.eq(byte.as_unsigned() << 8)
            with m.Elif(taking.maximum):
                m.d.sync += bypass.eq(0)  # what was there stays what it is, and competes with the byte
            with m.Else():
                m.d.sync += bypass.eq(byte)

            # What is written: the sum or the larger of two, chosen behind the registers, so that nothing but an addition or a
            # comparison lies before them. For a maximum, what was there is compared with a byte. Where none is asked for, it is
            # compared with the least number of all, than which nothing is smaller.
            plain = Signal(signed(32), name=f"plain_{c}", reset_less=True)
            larger = Signal(signed(8), name=f"larger_{c}", reset_less=True)
            is_larger = Signal(name=f"is_larger_{c}", reset_less=True)
            # (that number in 9 bits: the lowest 7, all between, the sign)
            floor = Signal(signed(32), name=f"floor_{c}")
            floor_low, floor_inner, floor_sign = (
                Signal(bits, name=f"floor_{name}_{c}", reset_less=True) for name, bits in (("low", 7), ("inner", 1), ("sign", 1))
            )
            m.d.comb += floor.eq(Cat(floor_low, floor_inner.replicate(24), floor_sign))
            with m.If(taking.maximum):
                m.d.sync += Cat(floor_low, floor_inner, floor_sign).eq(byte)
            with m.Else():
                m.d.sync += Cat(floor_low, floor_inner, floor_sign).eq(Const(1 << 8, 9))
            total = Signal(signed(32), name=f"total_{c}")
            m.d.comb += total.eq(Mux(is_larger, larger, plain))
            added_to = Signal(signed(32), name=f"added_to_{c}")
            for half in range(2):
                # a word is read again when it has been written, unless the sum so far is forwarded
                m.submodules[f"half_{half}_bank_{c}"] = bank = ram(shape=32, depth=self.depth)
                read = bank.read_port()
                write = bank.write_port()
                m.d.comb += [
                    read.en.eq(1),
                    read.addr.eq(Mux(reading.reads[half], at.address, self.i_drain.address[:bits])),
                    write.en.eq(writing.writes[half]),
                    write.addr.eq(to.address),
                    write.data.eq(total),
                ]
                # (nothing but a register behind the memory, which may then be the memory's own)
                m.d.sync += drained[half][c].eq(read.data)

            addend = Signal(signed(32), name=f"addend_{c}")
            m.d.comb += [
                added_to.eq(
                    (Mux(adding.half, drained[1][c], drained[0][c]) & adding.kept.replicate(32))
                    | (total & adding.forward.replicate(32))
                ),
                addend.eq(Mux(adding.from_array, self.i_sums[c], bypass)),
            ]
            with m.If(added.valid):
                m.d.sync += [
                    # sums wrap at 32 bits: that is the arithmetic contract
                    plain.eq((added_to + addend)[:32].as_signed()),
                    larger.eq(floor[:8].as_signed()),
                    # (a subtraction, because a comparison becomes a tree of look-up tables, and no carry chain)
                    is_larger.eq((added_to - floor)[-1]),
                ]

        m.d.sync += self.o_done.eq(chain[-1][0].last)

        first_wanted = Signal.like(self.i_drain, name="wanted_0", reset_less=True)
        m.d.sync += first_wanted.eq(self.i_drain)
        for lane in range(self.lanes):
            # (registers of its own, because each chooses every bit of a lane)
            group_wanted = Signal.like(first_wanted.group, name=f"group_{lane}", reset_less=True, attrs={"keep": 1})
            half_wanted = Signal(name=f"half_{lane}", reset_less=True, attrs={"keep": 1})
            m.d.sync += [group_wanted.eq(first_wanted.group), half_wanted.eq(first_wanted.address[bits])]
            choices = data.ArrayLayout(32, self.columns // self.lanes)
            halves = []
            for half in range(2):
                group_sums = Signal(choices, name=f"lane_{lane}_half_{half}")
                for group in range(self.columns // self.lanes):
                    m.d.comb += group_sums[group].eq(drained[half][group * self.lanes + lane])
                halves.append(group_sums[group_wanted])
            # (from memories that lie far apart, to tables that lie far from here: each way has a cycle to itself)
            found = Signal(signed(32), name=f"found_{lane}", reset_less=True)
            m.d.sync += found.eq(Mux(half_wanted, halves[1], halves[0]))
            m.d.comb += self.o_lanes[lane].eq(found)
        return m
