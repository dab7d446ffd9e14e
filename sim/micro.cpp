// The small engine in native code, with its clock and its host: memory is written through the engine's own port, the program is
// started, and memory is read back.

#include <cstdint>
#include <cstring>
#include <memory>

#include "Vmicro.h"

namespace {

constexpr uint64_t word_bytes = 8;

struct Bench {
    Vmicro top;

    void tick() {
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    }
};

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void* micro_new() {
    auto bench = std::make_unique<Bench>();
    bench->top.rst = 1;
    bench->tick();
    bench->top.rst = 0;
    return bench.release();
}

EXPORTED void micro_delete(void* handle) { delete static_cast<Bench*>(handle); }

// Writes some bytes of memory, whole words, from the first on.
EXPORTED void micro_write(void* handle, const uint8_t* data, uint64_t size) {
    auto& bench = *static_cast<Bench*>(handle);
    for (uint64_t at = 0; at < size; at += word_bytes) {
        uint64_t word;
        std::memcpy(&word, data + at, word_bytes);
        bench.top.i_address = at / word_bytes;
        bench.top.i_data = word;
        bench.top.i_mask = 0xFF;
        bench.tick();
    }
    bench.top.i_mask = 0;
}

EXPORTED void micro_read(void* handle, uint8_t* data, uint64_t size) {
    auto& bench = *static_cast<Bench*>(handle);
    for (uint64_t at = 0; at < size; at += word_bytes) {
        bench.top.i_address = at / word_bytes;
        bench.tick();
        uint64_t word = bench.top.o_data;
        std::memcpy(data + at, &word, word_bytes);
    }
}

struct Report {
    uint32_t busy, done, error, index, cycles;
};

// Runs for at most `limit` cycles, from the start of the program when `start` is set. `ends[n]` becomes the cycles after which
// instruction n was finished, for the first `size` instructions.
EXPORTED void micro_run(void* handle, uint32_t start, uint64_t limit, uint64_t* ends, uint64_t size, Report* report) {
    auto& top = static_cast<Bench*>(handle)->top;
    auto& bench = *static_cast<Bench*>(handle);
    if (start) {
        top.i_start = 1;
        bench.tick();
        top.i_start = 0;
    }
    uint32_t index = top.o_index;
    for (uint64_t cycle = 0; cycle < limit && top.o_busy; cycle++) {
        bench.tick();
        if (top.o_index != index || !top.o_busy) {
            if (index < size) ends[index] = top.o_cycles;
            index = top.o_index;
        }
    }
    *report = {top.o_busy, top.o_done, top.o_error, top.o_index, top.o_cycles};
}
