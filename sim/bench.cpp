// The native bench around Verilator's model: clock, memory model, control port, counters. sim/harness.py says what a run is.
// Python fills the memory and the steps, calls bench_run() until it says that the run is over, and reads the report.
// The compiler is told BUS_BYTES, UNIT_BUSY and, for a model that can write waveforms, TRACE.

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "Vbench.h"
#include "memory.hpp"
#include "verilated.h"
#ifdef TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

using namespace systolith;

constexpr unsigned UNITS = 3;

enum StepKind : uint32_t { WRITE, READ, WAIT };

struct Step {
    uint32_t kind, address, data;
};

struct Report {
    uint64_t cycle;     // cycles so far
    uint64_t finished;  // cycle in which the interrupt rose
    std::array<std::array<uint64_t, 8>, UNITS> spent;  // cycles before that, by unit and state
    uint64_t retired[UNITS];
    uint64_t states;  // of load, execute and store in the latest cycle, three bits each
    Violation violation;
};

enum Verdict : int { RUNNING, FINISHED, VIOLATED, STUCK };

class Bench {
  public:
    explicit Bench(const char* waveforms) {
        context_->traceEverOn(waveforms != nullptr);
        top_ = std::make_unique<Vbench>(context_.get(), "");
#ifdef TRACE
        if (waveforms) {
            trace_ = std::make_unique<VerilatedVcdC>();
            top_->trace(trace_.get(), 99);
            trace_->open(waveforms);
        }
#endif
        top_->rst = 1;
        edge();
        edge();
        top_->rst = 0;
        edge();
    }

    ~Bench() {
        top_->final();
#ifdef TRACE
        if (trace_) trace_->close();
#endif
    }

    void start(uint8_t* bytes, uint64_t size, uint64_t base, const Timing& timing, Step* steps, uint32_t count, uint64_t patience) {
        memory_.start(bytes, size, base, timing);
        steps_ = steps;
        end_ = steps + count;
        patience_ = patience;
        moved_ = 0;
        counting_ = true;
        report_ = {};
        for (auto& cycles : retired_) cycles.clear();
        for (auto& cycles : spent_) cycles.clear();
        begin_step();
        memory_.drive(*top_);
        drive_control(*top_);
    }

    Verdict run(uint64_t cycles) {
        Vbench& top = *top_;
        for (; cycles; --cycles) {
            edge();
            const uint64_t now = memory_.cycle();
            if (steps_->kind == WAIT && top.rings) {
                report_.finished = now;
                counting_ = false;
                memory_.check_idle();
            }
            bool moved = count(top, now);
            moved |= step_control(top, now);
            moved |= memory_.step(top);
            report_.cycle = now + 1;
            if (moved) moved_ = now;
            if (report_.violation.fault == NO_FAULT) report_.violation = memory_.violation();
            if (report_.violation.fault != NO_FAULT) return VIOLATED;
            if (steps_ == end_) return FINISHED;
            if (now - moved_ > patience_) return STUCK;
            memory_.drive(top);
            drive_control(top);
        }
        return RUNNING;
    }

    const Report& report() const { return report_; }
    const uint64_t* retired(unsigned unit) const { return retired_[unit].data(); }
    const uint64_t* spent(unsigned unit) const { return spent_[unit].data(); }

  private:
    // Takes the model over a rising edge, into a cycle with the inputs that were set before.
    void edge() {
        top_->clk = 1;
        top_->eval();
        dump();
        top_->clk = 0;
        top_->eval();
        dump();
    }

    void dump() {
#ifdef TRACE
        if (trace_) trace_->dump(time_++);
#endif
    }

    void begin_step() {
        address_open_ = steps_ != end_ && steps_->kind != WAIT;
        data_open_ = steps_ != end_ && steps_->kind == WRITE;
    }

    void drive_control(Vbench& top) {
        const bool write = steps_->kind == WRITE;
        top.s_axil_awvalid = write && address_open_;
        top.s_axil_awaddr = steps_->address;
        top.s_axil_wvalid = data_open_;
        top.s_axil_wdata = steps_->data;
        top.s_axil_arvalid = !write && address_open_;
        top.s_axil_araddr = steps_->address;
    }

    bool step_control(const Vbench& top, uint64_t now) {
        bool moved = false, over = false, refused = false;
        switch (steps_->kind) {
        case WRITE:
            moved = (address_open_ && top.s_axil_awready) || (data_open_ && top.s_axil_wready);
            if (top.s_axil_awready) address_open_ = false;
            if (top.s_axil_wready) data_open_ = false;
            over = top.s_axil_bvalid;
            refused = over && top.s_axil_bresp;
            break;
        case READ:
            moved = address_open_ && top.s_axil_arready;
            if (top.s_axil_arready) address_open_ = false;
            over = top.s_axil_rvalid;
            refused = over && top.s_axil_rresp;
            steps_->data = top.s_axil_rdata;
            break;
        default:
            over = top.rings;
        }
        if (refused) report_.violation = {CONTROL, REFUSED, now};
        if (over) {
            ++steps_;
            begin_step();
        }
        return moved || over;
    }

    // Counts a cycle by what the units did in it; returns whether any was busy.
    bool count(const Vbench& top, uint64_t now) {
        const uint32_t states = top.states;
        for (unsigned unit = 0; unit < UNITS; ++unit) report_.spent[unit][states >> 3 * unit & 7] += counting_;
        report_.states = states;
        if (top.retires)
            for (unsigned unit = 0; unit < UNITS; ++unit)
                if (top.retires >> unit & 1) {
                    retired_[unit].push_back(now);
                    for (const auto& spent : report_.spent) spent_[unit].insert(spent_[unit].end(), spent.begin(), spent.end());
                    ++report_.retired[unit];
                }
        return (states & 7) == UNIT_BUSY || (states >> 3 & 7) == UNIT_BUSY || states >> 6 == UNIT_BUSY;
    }

    std::unique_ptr<VerilatedContext> context_ = std::make_unique<VerilatedContext>();
    std::unique_ptr<Vbench> top_;
#ifdef TRACE
    std::unique_ptr<VerilatedVcdC> trace_;
    uint64_t time_ = 0;
#endif
    Memory<BUS_BYTES> memory_;
    Step* steps_ = nullptr;
    Step* end_ = nullptr;
    bool address_open_ = false, data_open_ = false, counting_ = false;
    uint64_t patience_ = 0, moved_ = 0;
    Report report_{};
    std::vector<uint64_t> retired_[UNITS], spent_[UNITS];
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void* bench_new(const char* waveforms) { return new Bench(waveforms); }

EXPORT void bench_delete(void* bench) { delete static_cast<Bench*>(bench); }

EXPORT void bench_start(void* bench, uint8_t* bytes, uint64_t size, uint64_t base, const Timing* timing, Step* steps, uint32_t count,
                        uint64_t patience) {
    static_cast<Bench*>(bench)->start(bytes, size, base, *timing, steps, count, patience);
}

EXPORT int bench_run(void* bench, uint64_t cycles) { return static_cast<Bench*>(bench)->run(cycles); }

EXPORT const Report* bench_report(const void* bench) { return &static_cast<const Bench*>(bench)->report(); }

EXPORT const uint64_t* bench_retired(const void* bench, uint32_t unit) { return static_cast<const Bench*>(bench)->retired(unit); }

EXPORT const uint64_t* bench_spent(const void* bench, uint32_t unit) { return static_cast<const Bench*>(bench)->spent(unit); }
