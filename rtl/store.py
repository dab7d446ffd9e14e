"""The output stage: accumulators -> requantise -> table -> pool -> scratchpad and memory."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig, Multiply
from accel.isa import Opcode, Source, UnitState
from accel.numerics import INT8_MIN
from rtl.accumulators import READ_LATENCY, drain_layout
from rtl.layouts import entry_layout, instruction_layout
from rtl.queue import Queue
from rtl.ram import ram
from rtl.requantise import Requantiser, parameter_layout, recipe_layout
from rtl.scratchpad import scratchpad_write_layout

__all__ = ["PAIR_LATENCY", "RESULTS", "TABLE_LATENCY", "StoreUnit", "table_write_layout", "transfer_layout", "word_layout"]

#: Finished groups that may wait for a port; at least the depth of the pipeline, so that it never limits by itself.
RESULTS = 32

#: Cycles that the table lookups take: one each for memory, the register behind it, and what becomes of that.
PAIR_LATENCY = 3
TABLE_LATENCY = 3


def transfer_layout() -> data.StructLayout:
    """Return what the write port must know of an instruction: rows of words in memory."""
    return data.StructLayout({"address": 32, "stride_y": 24, "n_x": 12, "n_y": 12, "index": 24})


def word_layout(word_bytes: int) -> data.StructLayout:
    """Return one activation word on its way to memory; ``row_last`` ends a row, ``address`` is its low bits."""
    return data.StructLayout({"data": 8 * word_bytes, "strobe": word_bytes, "row_last": 1, "address": 6})


def table_write_layout(lanes: int) -> data.StructLayout:
    """Return a write to the parameters of one lane, or to all lanes' copies of a table."""
    return data.StructLayout(
        {
            "parameter": lanes,
            "table": 1,
            "pair": 1,
            "address": 16,
            "entry": parameter_layout,
            "value": 32,
        }
    )


class StoreUnit(wiring.Component):
    """Run STORE instructions in order, one accumulator word and column group a cycle.

    An instruction's first group is issued two cycles after the last of the one before, if it may start (and, when it writes to
    memory, once the write port knows). A word is written when its last group is there; scratchpad writes give way to the load
    unit's.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_entry
        Queue of STOREs.
    o_drain, i_lanes
        The accumulators' read port.
    i_table
        Writes of the load unit to parameters and tables.
    i_blocked
        The scratchpad's write port is taken.
    o_write
        Scratchpad write; only while ``i_blocked`` is low.
    o_transfer, o_word
        Rows announced, and words delivered, to the memory write port.
    o_retire
        An instruction has written everything (or handed it to the memory write port).
    o_state
        What this cycle is spent on.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_entry": In(stream.Signature(entry_layout())),
                "o_drain": Out(drain_layout(config.column_groups)),
                "i_lanes": In(data.ArrayLayout(signed(32), config.lanes)),
                "i_table": In(table_write_layout(config.lanes)),
                "i_blocked": In(1),
                "o_write": Out(scratchpad_write_layout(config.rows)),
                "o_transfer": Out(stream.Signature(transfer_layout())),
                "o_word": Out(stream.Signature(word_layout(config.word_bytes))),
                "o_retire": Out(1),
                "o_state": Out(UnitState),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        lanes = config.lanes
        # groups of ``lanes`` bytes in a scratchpad word
        word_groups = config.rows // lanes
        periods = (config.rows - 1).bit_length()

        # Where a result goes (which group of its word, and in which of the possible periods that is repeated, if at all), and what
        # it ends: whether with it a word is written, or sent to memory.
        place = data.StructLayout(
            {
                "address": 16,
                "here": word_groups,
                "repeats": periods,
                "word_last": 1,
                "writes": 1,
                "sends": 1,
                "row_last": 1,
                "last": 1,
                "memory_low": 6,
            }
        )
        # What travels down the pipeline with a group of sums.
        tag = data.StructLayout(
            {
                "pair": 1,
                "use_table": 1,
                "pool_first": 1,
                "pool_last": 1,
                "slot": range(config.column_groups),
                "recipe": recipe_layout,
                "place": place,
            }
        )

        # ---- issue: nested loops y, x, pool, group ----
        entry = self.i_entry.payload
        store = data.View(instruction_layout(Opcode.STORE), entry.word)
        active = Signal()
        # to the memory write port, if that has to know
        announced = Signal()
        ready = Signal()
        m.d.comb += ready.eq(self.i_entry.valid & entry.orders.load.met & entry.orders.execute.met & entry.orders.store.met)
        # The instruction stays at the head of the queue until its last group is issued.
        address, row_address = Signal(16, reset_less=True), Signal(16, reset_less=True)
        memory_low, memory_row = Signal(6, reset_less=True), Signal(6, reset_less=True)
        accumulator = Signal(16, reset_less=True)
        group = Signal(range(config.column_groups + 1), reset_less=True)
        here = Signal(word_groups, reset_less=True)
        pool_first = Signal(reset_less=True)

        # What is issued goes all over the unit, so it is a register: active, announced, and with a credit.
        credits = Signal(range(RESULTS + 1), init=RESULTS)
        issue = Signal()
        goes_on = Signal()
        will_have_credit = Signal()
        m.d.sync += issue.eq(goes_on & will_have_credit)

        begin = Signal()
        m.d.comb += begin.eq(ready & ~active)
        (group_last, pool_last, x_last, _), done = _loops(
            m, limits=[store.groups, store.pool, store.n_x, store.n_y], begin=begin, advance=issue
        )
        word_last = group_last & pool_last
        row_last = word_last & x_last

        first_here = Cat(store.byte_offset == n * lanes for n in range(word_groups))
        with m.If(begin):
            m.d.sync += [
                active.eq(1),
                announced.eq(~store.to_memory),
                accumulator.eq(store.accumulators),
                address.eq(store.scratchpad),
                row_address.eq(store.scratchpad),
                memory_low.eq(store.memory_address[:6]),
                memory_row.eq(store.memory_address[:6]),
                group.eq(0),
                here.eq(first_here),
                pool_first.eq(1),
            ]

        m.d.comb += [
            self.o_transfer.payload.address.eq(store.memory_address),
            self.o_transfer.payload.stride_y.eq(store.memory_stride_y),
            self.o_transfer.payload.n_x.eq(store.n_x),
            self.o_transfer.payload.n_y.eq(store.n_y),
            self.o_transfer.payload.index.eq(entry.index),
            self.o_transfer.valid.eq(active & ~announced),
        ]
        with m.If(self.o_transfer.valid & self.o_transfer.ready):
            m.d.sync += announced.eq(1)
        m.d.comb += goes_on.eq(
            Mux(begin, ~store.to_memory, active & (announced | self.o_transfer.ready) & ~(issue & done)),
        )

        with m.If(issue):
            with m.If(group_last):
                m.d.sync += [accumulator.eq(accumulator + 1), group.eq(0), here.eq(first_here), pool_first.eq(pool_last)]
            with m.Else():
                m.d.sync += [group.eq(group + 1), here.eq(here << 1)]
            with m.If(row_last):
                following = (row_address + store.scratchpad_stride_y)[:16]
                following_low = (memory_row + store.memory_stride_y[:6])[:6]
                m.d.sync += [
                    row_address.eq(following),
                    address.eq(following),
                    memory_row.eq(following_low),
                    memory_low.eq(following_low),
                ]
            with m.Elif(word_last):
                m.d.sync += [address.eq(address + 1), memory_low.eq(memory_low + config.word_bytes)]
            with m.If(done):
                m.d.sync += active.eq(0)
                m.d.comb += self.i_entry.ready.eq(1)

        first_valid = Signal()
        first_tag = Signal(tag, reset_less=True)
        parameter_address = Signal(12, reset_less=True)
        m.d.sync += [
            first_valid.eq(issue),
            self.o_drain.address.eq(accumulator),
            self.o_drain.group.eq(store.first_group + group),
            parameter_address.eq(store.parameters + group),
            first_tag.pair.eq(store.source == Source.PAIR),
            first_tag.use_table.eq(store.use_table),
            first_tag.pool_first.eq(pool_first),
            first_tag.pool_last.eq(pool_last),
            first_tag.slot.eq(group),
            first_tag.recipe.rounding.eq(store.rounding),
            first_tag.recipe.zero_point.eq(store.zero_point),
            first_tag.recipe.minimum.eq(store.minimum),
            first_tag.recipe.maximum.eq(store.maximum),
            first_tag.place.address.eq(address),
            first_tag.place.here.eq(here),
            *(first_tag.place.repeats[log2].eq(store.period_log2 == log2) for log2 in range(periods)),
            first_tag.place.word_last.eq(group_last),
            first_tag.place.writes.eq(group_last & store.to_scratchpad),
            first_tag.place.sends.eq(group_last & store.to_memory),
            first_tag.place.row_last.eq(x_last),
            first_tag.place.last.eq(done),
            first_tag.place.memory_low.eq(memory_low),
        ]

        # ---- pipeline ----
        valids: list[Value] = [first_valid]
        tags: list[data.View] = [first_tag]

        def carry(cycles: int) -> data.View:
            for _ in range(cycles):
                later_valid = Signal(name=f"valid_{len(tags)}")
                later = Signal(tag, name=f"tag_{len(tags)}", reset_less=True)
                m.d.sync += [later_valid.eq(valids[-1]), later.eq(tags[-1])]
                valids.append(later_valid)
                tags.append(later)
            return tags[-1]

        carry(READ_LATENCY)
        sums = [self.i_lanes[lane] for lane in range(lanes)]
        if config.elementwise:
            sums = self._pair_sums(m, sums, tags[-1])
            carry(PAIR_LATENCY)
        # the parameters arrive with the sums: their memory takes two cycles
        wanted = parameter_address
        for n in range(READ_LATENCY + (PAIR_LATENCY if config.elementwise else 0) - 2):
            later = Signal(12, name=f"parameter_address_{n}", reset_less=True)
            m.d.sync += later.eq(wanted)
            wanted = later
        parameters = self._parameters(m, wanted)

        entering = tags[-1]
        multiply = None
        if config.multiplier:
            multiply = Multiply.ECP5 if config.multiply == Multiply.ECP5 else Multiply.PORTABLE
        m.submodules.requantiser = requantiser = Requantiser(lanes=lanes, multiply=multiply)
        m.d.comb += requantiser.i_recipe.eq(entering.recipe)
        for lane in range(lanes):
            m.d.comb += [requantiser.i_sums[lane].eq(sums[lane]), requantiser.i_parameters[lane].eq(parameters[lane])]
        values: list[Value] = [requantiser.o_bytes[lane] for lane in range(lanes)]
        carry(Requantiser.LATENCY)
        if config.tables:
            values = self._look_up(m, values, tags[-1])
            carry(TABLE_LATENCY)

        # pool: the largest so far, for each group
        final, final_valid = tags[-1], valids[-1]
        best = [
            Array(Signal(signed(8), name=f"best_{lane}_{slot}", reset_less=True) for slot in range(config.column_groups))
            for lane in range(lanes)
        ]
        result = data.StructLayout({"place": place, "bytes": data.ArrayLayout(8, lanes)})
        m.submodules.results = results = Queue(shape=result, depth=RESULTS, through=True)
        finished = results.w_data
        m.d.comb += [finished.place.eq(final.place), results.w_en.eq(final_valid & final.pool_last)]
        for lane in range(lanes):
            largest = Signal(signed(8), name=f"largest_{lane}")
            before = Mux(final.pool_first, INT8_MIN, best[lane][final.slot])
            # (a subtraction, because its sign comes sooner than what a comparison is made of)
            m.d.comb += [
                largest.eq(Mux((values[lane] - before)[-1], before, values[lane])),
                finished.bytes[lane].eq(largest),
            ]
            with m.If(final_valid):
                m.d.sync += best[lane][final.slot].eq(largest)

        # ---- write ----
        head = results.r_data
        # The groups of a word are gathered, and written together: to the scratchpad with the last of them, to memory a cycle later.
        word = Signal(data.ArrayLayout(8 * lanes, word_groups), reset_less=True)
        word_has = Signal(word_groups)
        word_row_last = Signal(reset_less=True)
        word_address = Signal(6, reset_less=True)
        # it waits to be taken by the memory write port
        word_valid = Signal()
        fire = Signal()
        m.d.comb += [
            fire.eq(
                results.r_rdy
                & ~(head.place.writes & self.i_blocked)
                # a word that is waiting must have left before anything is added
                & ~(word_valid & ~self.o_word.ready)
            ),
            results.r_en.eq(fire),
            self.o_word.valid.eq(word_valid),
            self.o_word.payload.data.eq(word),
            self.o_word.payload.strobe.eq(Cat(has.replicate(lanes) for has in word_has)),
            self.o_word.payload.row_last.eq(word_row_last),
            self.o_word.payload.address.eq(word_address),
        ]
        # Results that the pool swallows give their credit back when they leave the pipeline.
        swallowed = final_valid & ~final.pool_last
        m.d.sync += credits.eq(credits - issue + swallowed + fire)
        # whether any is left, without a look at that sum
        m.d.comb += will_have_credit.eq((credits > 1) | swallowed | fire | ((credits == 1) & ~issue))

        merged = Signal.like(word)
        merged_has = Signal(word_groups)
        m.d.comb += merged_has.eq(Mux(word_valid, 0, word_has) | head.place.here)
        for n in range(word_groups):
            m.d.comb += merged[n].eq(Mux(head.place.here[n], head.bytes.as_value(), word[n]))
        with m.If(word_valid & self.o_word.ready):
            m.d.sync += [word_valid.eq(0), word_has.eq(0)]
        with m.If(fire):
            m.d.sync += [
                word.eq(merged),
                word_has.eq(Mux(head.place.word_last & ~head.place.sends, 0, merged_has)),
                word_valid.eq(head.place.sends),
                word_row_last.eq(head.place.row_last),
                word_address.eq(head.place.memory_low),
            ]

        written = Signal()
        merged_bytes = merged.as_value()
        m.d.comb += [
            written.eq(fire & head.place.writes),
            self.o_write.address.eq(head.place.address),
        ]
        for bank in range(config.rows):
            # with a period, bank r repeats byte r % period
            has = Signal(name=f"has_{bank}")
            m.d.comb += [has.eq(merged_has[bank // lanes]), self.o_write.data[bank].eq(merged_bytes.word_select(bank, 8))]
            for log2 in range(periods):
                source = bank % (1 << log2)
                with m.If(head.place.repeats[log2]):
                    m.d.comb += [
                        has.eq(merged_has[source // lanes]),
                        self.o_write.data[bank].eq(merged_bytes.word_select(source, 8)),
                    ]
            m.d.comb += self.o_write.mask[bank].eq(written & has)
        m.d.sync += self.o_retire.eq(fire & head.place.last)

        # ---- state ----
        # A group is held up when no result was written in the cycle before: the word before it had not left, or else a port was
        # taken.
        refused = Signal()
        m.d.sync += refused.eq(results.r_rdy & word_valid & ~self.o_word.ready)
        held_up = Mux(refused, UnitState.WAIT_MEMORY, UnitState.WAIT_PIPELINE)
        m.d.comb += self.o_state.eq(UnitState.IDLE)
        with m.If(issue):
            m.d.comb += self.o_state.eq(UnitState.BUSY)
        with m.Elif(active):
            m.d.comb += self.o_state.eq(Mux(~announced, UnitState.WAIT_MEMORY, held_up))
        with m.Elif(self.i_entry.valid & ~entry.orders.execute.met):
            m.d.comb += self.o_state.eq(UnitState.WAIT_EXECUTE)
        with m.Elif(self.i_entry.valid & ~entry.orders.load.met):
            m.d.comb += self.o_state.eq(UnitState.WAIT_LOAD)
        with m.Elif(self.i_entry.valid & ~entry.orders.store.met):
            m.d.comb += self.o_state.eq(UnitState.WAIT_STORE)
        with m.Elif(self.i_entry.valid | (credits != RESULTS)):
            m.d.comb += self.o_state.eq(held_up)
        return m

    def _parameters(self, m: Module, address: Value) -> list[data.View]:
        """Read each lane's parameter, two cycles after its address."""
        # two memories, because the multiplier is left out of an engine that only shifts
        parts = [("bias", "first_shift", "second_shift"), *([("multiplier",)] if self.config.multiplier else [])]
        found = []
        for lane in range(self.config.lanes):
            entry = Signal(parameter_layout, name=f"parameter_{lane}")
            for part in parts:
                shape = data.StructLayout({name: parameter_layout[name].shape for name in part})
                m.submodules[f"parameters_{part[0]}_{lane}"] = bank = ram(shape=shape, depth=self.config.parameter_groups)
                read = bank.read_port()
                write = bank.write_port()
                value = Signal(shape, name=f"{part[0]}_{lane}", reset_less=True)
                m.d.sync += value.eq(read.data)
                m.d.comb += [
                    read.en.eq(1),
                    read.addr.eq(address[: len(read.addr)]),
                    write.en.eq(self.i_table.parameter[lane]),
                    write.addr.eq(self.i_table.address[: len(write.addr)]),
                ]
                for name in part:
                    m.d.comb += [write.data[name].eq(self.i_table.entry[name]), entry[name].eq(value[name])]
            found.append(entry)
        return found

    def _pair_sums(self, m: Module, sums: list[Value], tag: data.View) -> list[Value]:
        """Replace a sum by the two operands' table entries where the tag says so, ``PAIR_LATENCY`` cycles later."""
        chosen = Signal(PAIR_LATENCY - 1, name="pair_chosen", reset_less=True)
        m.d.sync += chosen.eq(Cat(tag.pair, chosen))
        outcome: list[Value] = []
        for lane, total in enumerate(sums):
            m.submodules[f"pairs_{lane}"] = bank = ram(shape=signed(32), depth=512)
            write = bank.write_port()
            m.d.comb += [
                write.en.eq(self.i_table.pair),
                write.addr.eq(self.i_table.address[:9]),
                write.data.eq(self.i_table.value.as_signed()),
            ]
            operands = []
            for which in range(2):
                read = bank.read_port()
                operand = Signal(signed(32), name=f"operand_{lane}_{which}", reset_less=True)
                m.d.sync += operand.eq(read.data)
                m.d.comb += [read.en.eq(1), read.addr.eq(Cat(total[8 * which : 8 * which + 8], Const(which, 1)))]
                operands.append(operand)
            waiting: Value = total
            for n in range(PAIR_LATENCY - 1):
                later = Signal(signed(32), name=f"sum_{lane}_{n}", reset_less=True)
                m.d.sync += later.eq(waiting)
                waiting = later
            first, second = Mux(chosen[-1], operands[0], waiting), Mux(chosen[-1], operands[1], 0)
            pair_sum = Signal(signed(32), name=f"pair_sum_{lane}", reset_less=True)
            m.d.sync += pair_sum.eq((first + second)[:32].as_signed())
            outcome.append(pair_sum)
        return outcome

    def _look_up(self, m: Module, values: list[Value], tag: data.View) -> list[Value]:
        """Pass each byte through the activation table where the tag says so, ``TABLE_LATENCY`` cycles later."""
        chosen = Signal(TABLE_LATENCY - 1, name="table_chosen", reset_less=True)
        m.d.sync += chosen.eq(Cat(tag.use_table, chosen))
        outcome: list[Value] = []
        for lane, value in enumerate(values):
            m.submodules[f"table_{lane}"] = bank = ram(shape=signed(8), depth=256)
            read = bank.read_port()
            write = bank.write_port()
            m.d.comb += [
                read.en.eq(1),
                read.addr.eq(value.as_unsigned()),
                write.en.eq(self.i_table.table),
                write.addr.eq(self.i_table.address[:8]),
                write.data.eq(self.i_table.value[:8].as_signed()),
            ]
            found = Signal(signed(8), name=f"found_{lane}", reset_less=True)
            m.d.sync += found.eq(read.data)
            plain = value
            for n in range(TABLE_LATENCY - 1):
                later = Signal(signed(8), name=f"plain_{lane}_{n}", reset_less=True)
                m.d.sync += later.eq(plain)
                plain = later
            looked_up = Signal(signed(8), name=f"looked_up_{lane}", reset_less=True)
            m.d.sync += looked_up.eq(Mux(chosen[-1], found, plain))
            outcome.append(looked_up)
        return outcome


def _loops(m: Module, *, limits: list[Value], begin: Value, advance: Value) -> tuple[list[Value], Value]:
    """Count nested loops, innermost first, from ``begin`` on; return for each whether it is in its last round, and whether all are.

    While ``advance`` is high a step is made each cycle. Whether a round is the last is in a register, so that nothing waits for a
    comparison, and whether all are in another.
    """
    lasts: list[Value] = []
    following: list[Value] = []
    carry: Value = Const(1)
    for n, limit in enumerate(limits):
        left = Signal(len(limit), name=f"left_{n}", reset_less=True)
        last = Signal(name=f"last_{n}", reset_less=True)
        again = Mux(begin | last, limit == 1, left == 1)
        with m.If(begin | (advance & carry)):
            m.d.sync += [left.eq(Mux(begin | last, limit, left) - 1), last.eq(again)]
        following.append(Mux(begin | carry, again, last))
        carry = carry & last
        lasts.append(last)
    ends = Signal(reset_less=True)
    with m.If(begin | advance):
        m.d.sync += ends.eq(Cat(following).all())
    return lasts, ends
