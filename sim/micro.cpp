// The small engine in native code, with its clock and its host: memory is written through the engine's own port, the program is
// started, and memory is read back.

#include <cstdint>
#include <cstring>
#include <memory>

#include "Vmicro.h"

namespace {

constexpr uint64_t word_bytes = 8;
constexpr unsigned units = 3;

}  // namespace

// What a run came to. `busy` counts the cycles of each unit.
struct Report {
    uint32_t running, done, error, index;
    uint64_t cycles, busy[units];
};

// What was seen when an instruction ended: how many cycles had passed, and `busy`.
struct End {
    uint64_t cycles, busy[units];
};

struct Bench {
    Vmicro top;
    Report report{};
    uint32_t index = 0;

    void tick() {
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    }
};

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED Bench* micro_new() {
    auto bench = std::make_unique<Bench>();
    bench->top.rst = 1;
    bench->tick();
    bench->top.rst = 0;
    return bench.release();
}

EXPORTED void micro_delete(Bench* bench) { delete bench; }

// Write `size` bytes of memory, whole words, from the first on.
EXPORTED void micro_write(Bench* bench, const uint8_t* data, uint64_t size) {
    for (uint64_t at = 0; at < size; at += word_bytes) {
        uint64_t word;
        std::memcpy(&word, data + at, word_bytes);
        bench->top.i_address = at / word_bytes;
        bench->top.i_data = word;
        bench->top.i_mask = 0xFF;
        bench->tick();
    }
    bench->top.i_mask = 0;
}

EXPORTED void micro_read(Bench* bench, uint8_t* data, uint64_t size) {
    for (uint64_t at = 0; at < size; at += word_bytes) {
        bench->top.i_address = at / word_bytes;
        bench->tick();
        uint64_t word = bench->top.o_data;
        std::memcpy(data + at, &word, word_bytes);
    }
}

EXPORTED void micro_start(Bench* bench) {
    bench->report = {};
    bench->top.i_start = 1;
    bench->tick();
    bench->top.i_start = 0;
    bench->index = bench->top.o_index;
}

// Go on for at most `limit` cycles. `ends[n]` is filled in for the instructions n below `size`.
EXPORTED const Report* micro_run(Bench* bench, uint64_t limit, End* ends, uint64_t size) {
    auto& top = bench->top;
    auto& report = bench->report;
    for (; limit && top.o_busy; limit--) {
        if (top.o_unit) report.busy[top.o_unit - 1]++;
        bench->tick();
        report.cycles++;
        if (top.o_index == bench->index && top.o_busy) continue;
        if (bench->index < size) {
            ends[bench->index].cycles = report.cycles;
            std::memcpy(ends[bench->index].busy, report.busy, sizeof report.busy);
        }
        bench->index = top.o_index;
    }
    report.running = top.o_busy;
    report.done = top.o_done;
    report.error = top.o_error;
    report.index = top.o_index;
    return &report;
}
