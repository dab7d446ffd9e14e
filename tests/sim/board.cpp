// The board design in native code with a serial line on its pins, whose other end is a pseudo-terminal.
//
// board TERMINAL DIVISOR DAMAGE: the file descriptor of the terminal's master side; clock cycles a bit; and of the bytes to the board
// every DAMAGE-th arrives with a bit turned (0: none).

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <poll.h>
#include <unistd.h>

#include "Vboard.h"
#include "verilated.h"

namespace {

// Cycles between two looks at the terminal, and cycles without a byte after which the simulation sleeps.
constexpr uint64_t kLook = 256, kIdle = 400'000;

class Sender {
public:
    explicit Sender(unsigned divisor) : divisor_(divisor) {}
    std::deque<uint8_t> bytes;

    bool step() {
        if (left_ == 0 && !bytes.empty()) {
            bits_ = 1u << 9 | bytes.front() << 1;
            bytes.pop_front();
            left_ = 10 * divisor_;
        }
        if (left_ == 0) return true;
        bool level = bits_ >> (10 - (left_ + divisor_ - 1) / divisor_) & 1;
        --left_;
        return level;
    }
    bool idle() const { return left_ == 0; }

private:
    unsigned divisor_, bits_ = 0, left_ = 0;
};

class Receiver {
public:
    explicit Receiver(unsigned divisor) : divisor_(divisor) {}

    // Returns a byte, or -1.
    int step(bool level) {
        if (!busy_) {
            if (!level) busy_ = true, age_ = 0, bits_ = 0;
            return -1;
        }
        ++age_;
        if (age_ % divisor_ != divisor_ / 2) return -1;
        unsigned bit = age_ / divisor_;
        if (bit < 1) return -1;
        if (bit < 9) {
            bits_ |= unsigned(level) << (bit - 1);
            return -1;
        }
        busy_ = false;
        if (!level) std::abort();  // no stop bit
        return int(bits_);
    }

private:
    unsigned divisor_, bits_ = 0, age_ = 0;
    bool busy_ = false;
};

}  // namespace

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int terminal = std::atoi(argv[1]);
    unsigned divisor = unsigned(std::atoi(argv[2])), damage = unsigned(std::atoi(argv[3]));
    VerilatedContext context;
    Vboard board{&context};
    Sender sender{divisor};
    Receiver receiver{divisor};
    uint64_t last = 0, sent = 0;
    board.button = 0;
    for (uint64_t cycle = 0;; ++cycle) {
        if (cycle % kLook == 0) {
            pollfd wanted{terminal, POLLIN, 0};
            bool asleep = cycle - last > kIdle;
            if (poll(&wanted, 1, asleep ? 20 : 0) > 0 && wanted.revents & POLLIN) {
                uint8_t bytes[4096];
                ssize_t count = read(terminal, bytes, sizeof bytes);
                for (ssize_t n = 0; n < count; ++n) {
                    bool hit = damage != 0 && ++sent % damage == 0;
                    sender.bytes.push_back(uint8_t(bytes[n] ^ (hit ? 0x10 : 0)));
                }
            }
        }
        board.rx = sender.step();
        board.clk25 = 0;
        board.eval();
        board.clk25 = 1;
        board.eval();
        if (!sender.idle()) last = cycle;
        int byte = receiver.step(board.tx);
        if (byte >= 0) {
            last = cycle;
            uint8_t out = uint8_t(byte);
            if (write(terminal, &out, 1) != 1) return 1;
        }
    }
}
