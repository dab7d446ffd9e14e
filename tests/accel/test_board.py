"""The host's end of the link: what it says of a board, whatever the line does to what is sent."""

import os
import pty
import sys
from collections.abc import Callable

import numpy as np
import pytest

from accel import link
from accel.board import Board, BoardError, Settings, identity, open_port
from accel.compiler import compile_network
from accel.config import DESIGNS, PRESETS, load_config
from accel.isa import CSR
from accel.link import Command, LinkError, Status
from accel.testing import call_cli, random_network

SEED = 5
PORT = "/dev/ttyBOARD"


class Line:
    """A serial port with a board at its end, in Python; ``hit`` turns what either side sends into what the other hears."""

    def __init__(
        self, *, version: int = link.LINK_VERSION, who: bytes = bytes(8), hit: Callable[[bytes], bytes] = lambda sent: sent
    ):
        self.memory = bytearray(1 << 17)
        self.registers = {int(CSR.ISA_VERSION): 2}
        self.version, self.who, self.hit = version, who, hit
        self.requests = 0
        self.heard = b""

    def reset_input_buffer(self) -> None:
        self.heard = b""

    def read(self, size: int = 1) -> bytes:
        data, self.heard = self.heard[:size], self.heard[size:]
        return data

    def write(self, data: bytes) -> int:
        self.requests += 1
        if data:
            self.heard += self.hit(self.respond(self.hit(data)))
        return len(data)

    def respond(self, data: bytes) -> bytes:
        header = link.check(data[1:10])
        if data[:1] != bytes((link.REQUEST,)):
            return b""
        if header is None:
            return link.answer(Status.BAD_REQUEST)
        command, length, address = header[0], int.from_bytes(header[1:3], "little"), int.from_bytes(header[3:], "little")
        payload = link.check(data[10:])
        if command in (Command.WRITE, Command.WRITE_REGISTER) and (payload is None or len(payload) != length):
            return link.answer(Status.BAD_DATA)
        if command == Command.IDENTIFY:
            return link.answer(Status.OK, bytes((self.version,)) + self.who)
        if command == Command.READ:
            return link.answer(Status.OK, bytes(self.memory[address : address + length]))
        if command == Command.READ_REGISTER:
            return link.answer(Status.OK, self.registers.get(address, 0).to_bytes(4, "little"))
        assert payload is not None
        if command == Command.WRITE_REGISTER:
            self.registers[address] = int.from_bytes(payload, "little")
        elif address + length > len(self.memory):
            return link.answer(Status.BAD_ADDRESS)
        else:
            self.memory[address : address + length] = payload
        return link.answer(Status.OK)


def test_memory_and_registers_get_across_whatever_their_size() -> None:
    line = Line()
    there = Board(line, name=PORT)
    data = np.random.default_rng(SEED).integers(0, 256, link.MAX_DATA + 5, np.uint8).tobytes()
    there.write(3, data)
    assert there.read(3, len(data)) == data
    there.write32(CSR.BASE, 0x1234_5678)
    assert there.read32(CSR.BASE) == 0x1234_5678
    assert line.requests == 6


def test_damage_now_and_then_is_made_good() -> None:
    rng = np.random.default_rng(SEED)

    def hit(sent: bytes) -> bytes:
        damaged = bytearray(sent)
        if sent and rng.random() < 0.03:
            damaged[int(rng.integers(len(sent)))] ^= 1 << int(rng.integers(8))
        return bytes(damaged)

    line = Line(hit=hit)
    there = Board(line, name=PORT)
    for n in range(50):
        data = rng.integers(0, 256, 40, np.uint8).tobytes()
        there.write(64 * n, data)
        assert there.read(64 * n, 40) == data, f"seed {SEED}"
    assert line.requests > 100


@pytest.mark.parametrize(
    ("hit", "sentence"),
    [
        (lambda sent: b"", "the board does not answer; is it the right port and --baud, and is the design on it?"),
        (lambda sent: sent[:-1], "the board answers what cannot be understood; is it the right --baud, and is the cable sound?"),
        (
            lambda sent: bytes((sent[0], sent[1] ^ 1, *sent[2:])) if sent[:1] == bytes((link.REQUEST,)) else sent,
            "the board does not get requests undamaged; is it the right --baud, and is the cable sound?",
        ),
    ],
)
def test_a_broken_line_is_told_in_a_sentence(hit: Callable[[bytes], bytes], sentence: str) -> None:
    line = Line(hit=hit)
    with pytest.raises(LinkError) as caught:
        Board(line, name=PORT).read32(CSR.STATUS)
    assert str(caught.value) == f"{PORT}: {sentence}"
    assert line.requests == 3


def test_a_refusal_is_told_at_once() -> None:
    line = Line()
    with pytest.raises(LinkError) as caught:
        Board(line, name=PORT).write(len(line.memory), b"1")
    assert str(caught.value) == f"{PORT}: the board refuses a request with BAD_ADDRESS; reset it, and try again"
    assert line.requests == 1


def test_another_version_and_another_program_are_refused() -> None:
    rng = np.random.default_rng(SEED)
    network = random_network(rng, 1000)
    program = compile_network(network, PRESETS["tiny"])
    with pytest.raises(LinkError) as caught:
        Board(Line(version=9), name=PORT).require(program)
    assert str(caught.value) == (
        f"{PORT}: the board speaks version 9 of the link, this program {link.LINK_VERSION}; make its bitstream with this version"
    )
    Board(Line(who=identity(program)), name=PORT).require(program)
    with pytest.raises(LinkError) as caught:
        Board(Line(who=b"12345678"), name=PORT).require(program)
    assert str(caught.value) == (
        f"{PORT}: the board holds the program of digest 3132333435363738, not {identity(program).hex()} "
        f"({program.network} for tiny); load the bitstream made with this version"
    )


def test_a_port_that_fails_is_told_in_a_sentence() -> None:
    class Gone(Line):
        def read(self, size: int = 1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(LinkError) as caught:
        Board(Gone(), name=PORT).identify()
    assert str(caught.value) == f"{PORT}: the port has failed: Input/output error; is the board still connected?"


def test_a_port_that_is_not_there_is_told_in_a_sentence() -> None:
    with pytest.raises(LinkError) as caught, open_port("/dev/ttyNOWHERE", baud=115200, timeout=1):
        raise AssertionError
    assert str(caught.value).startswith(
        "/dev/ttyNOWHERE: cannot be opened as a serial port: No such file or directory; the ports here:"
    )


def test_a_clock_too_slow_for_the_line_is_refused() -> None:
    assert Settings(clock=64_000_000, baud=1_000_000).divisor == 64
    with pytest.raises(BoardError) as caught:
        Settings(clock=10_000_000, baud=3_000_000)
    assert str(caught.value) == ("a line of 3000000 bits a second cannot be made from a clock of 10000000 Hz; take 1200 to 2500000")


def test_the_design_is_a_configuration_by_name() -> None:
    assert load_config("board") == DESIGNS["board"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_infer_refuses_in_one_sentence_and_with_status_2(tmp_path) -> None:
    np.save(tmp_path / "digit.npy", np.zeros((28, 28, 1), np.uint8))
    digit = str(tmp_path / "digit.npy")
    nobody, theirs = pty.openpty()
    try:
        port = os.ttyname(theirs)
        for arguments, sentence in (
            (
                ["--port", "/dev/ttyNOWHERE", digit],
                "/dev/ttyNOWHERE: cannot be opened as a serial port: No such file or directory; ",
            ),
            (["--port", port, "--timeout", "0.05", digit], f"{port}: the board does not answer; is it the right port and --baud, "),
            (["--port", port, str(tmp_path / "none.png")], f"{tmp_path / 'none.png'}: there is no such file"),
        ):
            result = call_cli("infer", *arguments)
            assert result.exit_code == 2
            assert result.stdout == ""
            assert result.stderr.startswith(f"systolith: {sentence}"), result.stderr
            assert result.stderr.count("\n") == 1
    finally:
        os.close(nobody)
        os.close(theirs)
