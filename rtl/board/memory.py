"""Memory on the chip behind an AXI4 port."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from rtl.queue import Queue
from rtl.ram import ram
from rtl.wishbone import axi_signature

__all__ = ["LATENCY", "PIECE_WORDS", "SMALLEST_WORDS", "OnChipMemory", "pieces"]

#: Cycles from an address to its first beat, and from a last beat to its response: :class:`accel.program.MemoryTiming` with this
#: latency and a beat a cycle.
LATENCY = 5

#: Words of the largest piece: a block RAM of 16 kbit in bytes, so that no multiplexer stands between it and its register; and of
#: the smallest, below which block RAMs of that size do not become fewer.
PIECE_WORDS, SMALLEST_WORDS = 2048, 512

#: Bursts, write beats, and read beats that are taken ahead.
READ_BURSTS, WRITE_BURSTS, WRITE_BEATS, READ_BEATS = 16, 8, 16, 8

_SLAVE_ERROR = 2


def pieces(words: int) -> list[tuple[int, int]]:
    """Return first word and words of the memories that make up one of at least ``words``: powers of two, the largest first."""
    found, first = [], 0
    while first < words:
        size = max(SMALLEST_WORDS, min(PIECE_WORDS, 1 << ((words - first).bit_length() - 1)))
        found.append((first, size))
        first += size
    return found


class OnChipMemory(wiring.Component):
    """Block RAM as an AXI4 slave: a beat a cycle in each direction at once, ``LATENCY`` cycles after its address.

    In every cycle it does what the memory model (:mod:`sim.memory`) does, for a master with at most ``READ_BURSTS`` and
    ``WRITE_BURSTS`` under way that gives no data before their address, and reads nothing before its write is answered. Beats
    outside of it are answered with SLVERR: read as ones, written nowhere.

    ::

        AR -> [bursts] -> [address] -> memories -> [registers] -> [beats] -> R
        AW -> [bursts] -> [address] --.
        W --> [beats] ---------------> [write] -> memories          ... [responses] -> B

    Parameters
    ----------
    bus_bytes
        Bytes a beat.
    words
        Beats that it holds, from address 0 on.
    image
        Bytes that it holds at first, from address 0 on.

    Members
    -------
    axi
        AXI4: INCR bursts of full beats, no IDs.
    """

    def __init__(self, *, bus_bytes: int, words: int, image: bytes = b"") -> None:
        self.bus_bytes = bus_bytes
        self.words = words
        self.image = image
        super().__init__({"axi": In(axi_signature(bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, bus = self.axi, self.bus_bytes
        low = (bus - 1).bit_length()
        index_bits = 32 - low
        burst = data.StructLayout({"index": index_bits, "length": 8})

        # ---- reads: a burst's next word, then the memories, the registers behind them, and the beats that wait ----
        m.submodules.read_bursts = read_bursts = Queue(shape=burst, depth=READ_BURSTS, through=True)
        beat_layout = data.StructLayout({"data": 8 * bus, "error": 1, "last": 1})
        m.submodules.read_beats = read_beats = Queue(shape=beat_layout, depth=READ_BEATS, through=True)
        read_index = Signal(index_bits, reset_less=True)
        read_left = Signal(9)
        owed = Signal(range(READ_BEATS + 1))
        issue = Signal()
        m.d.comb += [
            axi.arready.eq(read_bursts.w_rdy),
            read_bursts.w_en.eq(axi.arvalid),
            read_bursts.w_data.eq(Cat(axi.araddr[low:], axi.arlen)),
            issue.eq((read_left != 0) & (owed != READ_BEATS)),
        ]
        m.d.sync += owed.eq(owed + issue - (axi.rvalid & axi.rready))
        self._follow(m, read_bursts, read_index, read_left, issue)

        line = data.StructLayout({"valid": 1, "last": 1})
        stages = [Signal(line, name=f"read_{n}") for n in range(2)]
        m.d.sync += [stages[0].valid.eq(issue), stages[0].last.eq(read_left == 1), stages[1].eq(stages[0])]

        # ---- writes: beats wait a cycle longer than addresses, so that one given with its address finds it ----
        m.submodules.write_bursts = write_bursts = Queue(shape=burst, depth=WRITE_BURSTS, through=True)
        m.submodules.write_beats = write_beats = Queue(shape=9 * bus, depth=WRITE_BEATS, through=False)
        m.submodules.responses = responses = Queue(shape=1, depth=WRITE_BURSTS, through=True)
        write_index = Signal(index_bits, reset_less=True)
        write_left = Signal(9)
        responses_owed = Signal(range(WRITE_BURSTS + 1))
        write = Signal()
        m.d.comb += [
            axi.awready.eq(write_bursts.w_rdy & (responses_owed != WRITE_BURSTS)),
            write_bursts.w_en.eq(axi.awvalid & axi.awready),
            write_bursts.w_data.eq(Cat(axi.awaddr[low:], axi.awlen)),
            axi.wready.eq(write_beats.w_rdy),
            write_beats.w_en.eq(axi.wvalid),
            write_beats.w_data.eq(Cat(axi.wdata, axi.wstrb)),
            write.eq((write_left != 0) & write_beats.r_rdy),
            write_beats.r_en.eq(write),
        ]
        m.d.sync += responses_owed.eq(responses_owed + write_bursts.w_en - (axi.bvalid & axi.bready))
        self._follow(m, write_bursts, write_index, write_left, write)
        write_at = Signal(index_bits, reset_less=True)
        write_data = Signal(8 * bus, reset_less=True)
        write_strobe = Signal(bus)
        ends = Signal(2)
        failed = Signal()
        m.d.sync += [
            write_at.eq(write_index),
            write_data.eq(write_beats.r_data[: 8 * bus]),
            write_strobe.eq(Mux(write, write_beats.r_data[8 * bus :], 0)),
            ends.eq(Cat(write & (write_left == 1), ends)),
        ]
        beyond = Signal(reset_less=True)
        began = Signal()
        m.d.sync += [beyond.eq(write_index >= self.words), began.eq(write)]
        with m.If(began):
            m.d.sync += failed.eq(~ends[0] & (failed | beyond))

        ended_badly = Signal()
        m.d.sync += ended_badly.eq(failed | beyond)
        m.d.comb += [
            responses.w_en.eq(ends[1]),
            responses.w_data.eq(ended_badly),
            axi.bvalid.eq(responses.r_rdy),
            axi.bresp.eq(Mux(responses.r_data, _SLAVE_ERROR, 0)),
            responses.r_en.eq(axi.bready),
        ]

        # ---- the memories ----
        words = [int.from_bytes(self.image[n : n + bus], "little") for n in range(0, len(self.image), bus)]
        # Whose word is read or written is found in the cycle before, so that nothing is compared between registers and beats.
        read_at = Signal(index_bits, reset_less=True)
        outside = Signal(reset_less=True)
        m.d.sync += [read_at.eq(read_index), outside.eq(read_at >= self.words)]
        shown: Value = outside.replicate(8 * bus)
        for number, (first, size) in enumerate(pieces(self.words)):
            piece = ram(shape=8 * bus, depth=size, init=words[first : first + size])
            m.submodules[f"piece_{number}"] = piece
            reader, writer = piece.read_port(), piece.write_port(granularity=8)
            value = Signal(8 * bus, name=f"value_{number}", reset_less=True)
            bits = size.bit_length() - 1
            # a piece begins at a multiple of its size, which thus alone decides which words are its own
            reads, writes = (Signal(name=f"{name}_{number}", reset_less=True) for name in ("reads", "writes"))
            m.d.sync += [
                value.eq(reader.data),
                reads.eq(read_at >> bits == first >> bits),
                writes.eq(write_index >> bits == first >> bits),
            ]
            m.d.comb += [
                reader.en.eq(1),
                reader.addr.eq(read_index[:bits]),
                writer.addr.eq(write_at[:bits]),
                writer.data.eq(write_data),
                writer.en.eq(Mux(writes, write_strobe, 0)),
            ]
            shown = shown | (value & reads.replicate(8 * bus))
        beat = Signal(beat_layout)
        head = read_beats.r_data
        m.d.comb += [
            beat.data.eq(shown),
            beat.error.eq(outside),
            beat.last.eq(stages[1].last),
            read_beats.w_data.eq(beat),
            read_beats.w_en.eq(stages[1].valid),
            axi.rvalid.eq(read_beats.r_rdy),
            axi.rdata.eq(head.data),
            axi.rresp.eq(Mux(head.error, _SLAVE_ERROR, 0)),
            axi.rlast.eq(head.last),
            read_beats.r_en.eq(axi.rready),
        ]
        return m

    @staticmethod
    def _follow(m: Module, bursts: Queue, index: Signal, left: Signal, step: Signal) -> None:
        """Let ``index`` and ``left`` follow the bursts, a beat in each cycle of ``step``, without a pause between two."""
        following = bursts.r_data
        m.d.comb += bursts.r_en.eq((left == 0) | (step & (left == 1)))
        with m.If(bursts.r_en):
            m.d.sync += [index.eq(following.index), left.eq(Mux(bursts.r_rdy, following.length + 1, 0))]
        with m.Elif(step):
            m.d.sync += [index.eq(index + 1), left.eq(left - 1)]
