// The stand-alone core in native code with memory behind it, as a processor sees it: registers that are read and written.
// Each access takes the clock cycles that it takes on AXI4-Lite. The compiler is told BUS_BYTES.

#include <cstdint>
#include <cstdlib>

#include "Vsystolith.h"
#include "memory.hpp"
#include "verilated.h"

namespace {

struct Device {
    VerilatedContext context;
    Vsystolith top{&context, ""};
    systolith::Memory<BUS_BYTES> memory;

    // One cycle: everything that the core drives in it can be read until the next.
    void cycle() {
        memory.drive(top);
        top.eval();
        memory.step(top);
        if (memory.violation().fault != systolith::NO_FAULT) std::abort();
        top.clk = 1;
        top.eval();
        top.clk = 0;
    }

    // What the core drives in the present cycle with the inputs as they are.
    void settle() { top.eval(); }
};

}  // namespace

extern "C" {

// Registers, memories and undriven values begin as `seed` will have it.
Device* device_new(uint8_t* bytes, uint64_t size, uint64_t base, uint32_t latency, int seed) {
    Verilated::defaultContextp()->randReset(2);
    auto* device = new Device;
    device->context.randReset(2);
    device->context.randSeed(seed);
    device->memory.start(bytes, size, base, systolith::Timing{0, latency, 1, 0});
    device->top.rst = 1;
    device->cycle();
    device->cycle();
    device->top.rst = 0;
    device->top.s_axil_bready = device->top.s_axil_rready = 1;
    device->top.s_axil_wstrb = 15;
    return device;
}

void device_delete(Device* device) { delete device; }

uint32_t device_read32(Device* device, uint32_t offset) {
    auto& top = device->top;
    top.s_axil_araddr = offset;
    top.s_axil_arvalid = 1;
    for (;;) {
        device->settle();
        if (top.s_axil_arready) break;
        device->cycle();
    }
    device->cycle();
    top.s_axil_arvalid = 0;
    for (;;) {
        device->settle();
        if (top.s_axil_rvalid) break;
        device->cycle();
    }
    const uint32_t value = top.s_axil_rdata;
    if (top.s_axil_rresp) std::abort();
    device->cycle();
    return value;
}

void device_write32(Device* device, uint32_t offset, uint32_t value) {
    auto& top = device->top;
    top.s_axil_awaddr = offset;
    top.s_axil_wdata = value;
    top.s_axil_awvalid = top.s_axil_wvalid = 1;
    for (;;) {
        device->settle();
        if (top.s_axil_awready && top.s_axil_wready) break;
        device->cycle();
    }
    device->cycle();
    top.s_axil_awvalid = top.s_axil_wvalid = 0;
    for (;;) {
        device->settle();
        if (top.s_axil_bvalid) break;
        device->cycle();
    }
    if (top.s_axil_bresp) std::abort();
    device->cycle();
}

int device_interrupt(Device* device) {
    device->settle();
    return device->top.__SYM__interrupt;  // Verilator's name for a port that is called as a word of C++
}
}
