"""The board's end of the link: each request's answer, to the byte, and what it does to memory and registers."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from accel.isa import CSR
from accel.link import IDENTITY_BYTES, LINK_VERSION, REGISTER_BYTES, Command, Status, answer, request
from rtl.board.link import Link
from rtl.board.memory import OnChipMemory
from rtl.csr import Registers

BUS = 8
MEMORY = 256
PROTECTED = 64
IDENTITY = bytes(range(0x41, 0x41 + IDENTITY_BYTES))
DIGEST = 0x0123_4567_89AB_CDEF
SILENCE = 40
#: Cycles between two bytes: fewer than the fastest line takes.
PACE = 14
SEED = 3
IMAGE = np.random.default_rng(SEED).integers(0, 256, PROTECTED, np.uint8).tobytes()


class Bench(wiring.Component):
    """The link with a memory and registers."""

    def __init__(self) -> None:
        self.link = Link(bus_bytes=BUS, memory_bytes=MEMORY, protected_bytes=PROTECTED, identity=IDENTITY, silence=SILENCE)
        super().__init__({"i_byte": In(8), "i_valid": In(1), "i_line_idle": In(1, init=1), "i_busy": In(1), "o_base": Out(32)})

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        m.submodules.link = link = self.link
        m.submodules.memory = memory = OnChipMemory(bus_bytes=BUS, words=MEMORY // BUS, image=IMAGE)
        m.submodules.registers = registers = Registers(digest=DIGEST)
        wiring.connect(m, link.axi, memory.axi)
        wiring.connect(m, link.lite, registers.bus)
        m.d.comb += [
            link.i_byte.eq(self.i_byte),
            link.i_valid.eq(self.i_valid),
            link.i_line_idle.eq(self.i_line_idle),
            registers.i_busy.eq(self.i_busy),
            self.o_base.eq(registers.o_base),
        ]
        return m


def converse(bench, requests: list[bytes], *, busy: bool = False) -> tuple[list[bytes], int]:
    """Send each request when the answer to the one before it has come; return the answers and the register BASE."""
    block = Bench()
    answers: list[bytes] = []
    base = 0
    rng = np.random.default_rng(SEED)

    async def host(ctx):
        nonlocal base
        ctx.set(block.i_busy, busy)
        for wanted in requests:
            for byte in wanted:
                ctx.set(block.i_line_idle, 0)
                await bench.repeat(ctx, PACE)
                ctx.set(block.i_byte, byte)
                ctx.set(block.i_valid, 1)
                await ctx.tick()
                ctx.set(block.i_valid, 0)
                ctx.set(block.i_line_idle, 1)
            heard = bytearray()
            waited = 0
            while waited < 3 * SILENCE:
                ready = bool(rng.random() < 0.3)
                ctx.set(block.link.o.ready, ready)
                _, _, valid, payload = await ctx.tick().sample(block.link.o.valid, block.link.o.payload)
                waited = 0 if valid else waited + 1
                if valid and ready:
                    heard.append(payload)
            ctx.set(block.link.o.ready, 0)
            answers.append(bytes(heard))
        base = ctx.get(block.o_base)

    bench.run(block, host, limit=200_000)
    return answers, base


def test_memory_is_written_and_read_a_byte_at_a_time(bench):
    data = np.random.default_rng(SEED).integers(0, 256, 21, np.uint8).tobytes()
    answers, _ = converse(
        bench,
        [
            request(Command.WRITE, address=PROTECTED + 3, data=data),
            request(Command.READ, address=PROTECTED + 1, length=25),
            request(Command.READ, address=0, length=PROTECTED),
            request(Command.WRITE, address=MEMORY - 1, data=b"\xa5"),
            request(Command.READ, address=MEMORY - 2, length=2),
        ],
    )
    assert answers == [
        answer(Status.OK),
        answer(Status.OK, bytes(2) + data + bytes(2)),
        answer(Status.OK, IMAGE),
        answer(Status.OK),
        answer(Status.OK, b"\x00\xa5"),
    ]


def test_the_board_tells_who_it_is_and_its_registers_are_read_and_written(bench):
    address = 0x8765_4000
    answers, base = converse(
        bench,
        [
            request(Command.IDENTIFY, length=1 + IDENTITY_BYTES),
            request(Command.READ_REGISTER, address=CSR.DIGEST_LOW, length=REGISTER_BYTES),
            request(Command.WRITE_REGISTER, address=CSR.BASE, data=address.to_bytes(4, "little")),
            request(Command.READ_REGISTER, address=CSR.BASE, length=REGISTER_BYTES),
            request(Command.WRITE_REGISTER, address=CSR.STATUS, data=bytes(4)),
            request(Command.READ_REGISTER, address=2, length=REGISTER_BYTES),
        ],
    )
    assert answers == [
        answer(Status.OK, bytes((LINK_VERSION,)) + IDENTITY),
        answer(Status.OK, (DIGEST & 0xFFFF_FFFF).to_bytes(4, "little")),
        answer(Status.OK),
        answer(Status.OK, address.to_bytes(4, "little")),
        answer(Status.REFUSED),
        answer(Status.REFUSED),
    ]
    assert base == address


def test_what_may_not_be_touched_is_refused_and_stays(bench):
    answers, base = converse(
        bench,
        [
            request(Command.WRITE, address=PROTECTED - 1, data=b"12"),
            request(Command.WRITE, address=MEMORY - 1, data=b"12"),
            request(Command.READ, address=MEMORY - 1, length=2),
            request(Command.READ, address=0xFFFF_FFFF, length=2),
            request(Command.WRITE_REGISTER, address=0x100 + CSR.BASE, data=bytes(4)),
            request(Command.READ, address=PROTECTED - 1, length=1),
            request(Command.READ, address=MEMORY - 1, length=1),
        ],
    )
    assert answers == [answer(Status.BAD_ADDRESS)] * 5 + [answer(Status.OK, IMAGE[-1:]), answer(Status.OK, b"\0")]
    assert base == 0


def test_memory_is_the_engines_while_it_runs(bench):
    answers, _ = converse(
        bench,
        [
            request(Command.WRITE, address=PROTECTED, data=b"12"),
            request(Command.READ, address=0, length=2),
            request(Command.READ_REGISTER, address=CSR.STATUS, length=REGISTER_BYTES),
        ],
        busy=True,
    )
    assert answers == [answer(Status.BUSY), answer(Status.BUSY), answer(Status.OK, b"\1\0\0\0")]


@pytest.mark.parametrize("command", [0, 6, 255])
def test_commands_there_are_not(bench, command):
    assert converse(bench, [request(command, length=1)])[0] == [answer(Status.BAD_COMMAND)]


@pytest.mark.parametrize(
    ("command", "length"), [(Command.READ, 0), (Command.READ_REGISTER, 3), (Command.WRITE_REGISTER, 5), (Command.IDENTIFY, 1)]
)
def test_lengths_that_a_command_has_not(bench, command, length):
    assert converse(bench, [request(command, length=length)])[0] == [answer(Status.BAD_COMMAND)]


def test_a_damaged_request_has_one_answer_and_no_effect(bench):
    """Any byte of a write may be hit, whatever the bytes are that follow."""
    data = b"\xa5\xa5\x01"
    whole = request(Command.WRITE, address=PROTECTED, data=data)
    last = len(whole) - len(data) - 2
    again = request(Command.READ, address=PROTECTED, length=3)
    for place in range(1, len(whole)):
        hit = bytearray(whole)
        hit[place] ^= 0x40
        answers, _ = converse(bench, [bytes(hit), again, whole, again])
        if place < last:
            assert answers[:2] == [answer(Status.BAD_REQUEST), answer(Status.OK, bytes(3))], place
        else:
            assert answers[0] == answer(Status.BAD_DATA), place
        assert answers[2:] == [answer(Status.OK), answer(Status.OK, data)], place


def test_bytes_that_get_lost_are_noticed(bench):
    whole = request(Command.WRITE, address=PROTECTED, data=b"123")
    read = request(Command.READ, address=PROTECTED, length=3)
    answers, _ = converse(bench, [whole[:5], whole[:-1], whole[:-4], whole[1:], whole, read])
    assert answers == [answer(Status.INCOMPLETE)] * 3 + [b"", answer(Status.OK), answer(Status.OK, b"123")]


def test_what_comes_before_a_request_is_passed_over(bench):
    assert converse(bench, [b"\x00\x5a\xff" + request(Command.READ, address=1, length=1)])[0] == [answer(Status.OK, IMAGE[1:2])]
