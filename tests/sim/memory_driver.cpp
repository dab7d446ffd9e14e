// The native memory model alone, one cycle a call, for comparison with its twin in Python.

#include "memory.hpp"

using namespace systolith;

struct Ports {
    uint64_t m_axi_wstrb;
    uint32_t m_axi_awaddr, m_axi_araddr;
    uint8_t m_axi_awlen, m_axi_awsize, m_axi_awburst, m_axi_awvalid, m_axi_wlast, m_axi_wvalid, m_axi_bready;
    uint8_t m_axi_arlen, m_axi_arsize, m_axi_arburst, m_axi_arvalid, m_axi_rready;
    uint8_t m_axi_awready, m_axi_wready, m_axi_bresp, m_axi_bvalid, m_axi_arready, m_axi_rresp, m_axi_rlast, m_axi_rvalid;
    uint8_t m_axi_wdata[BUS_BYTES], m_axi_rdata[BUS_BYTES];
};

static Memory<BUS_BYTES> memory;

extern "C" {

void memory_start(uint8_t* bytes, uint64_t size, uint64_t base, const Timing* timing) { memory.start(bytes, size, base, *timing); }

void memory_drive(Ports* ports) { memory.drive(*ports); }

bool memory_step(const Ports* ports) { return memory.step(*ports); }

void memory_check_idle() { memory.check_idle(); }

void memory_violation(Violation* violation) { *violation = memory.violation(); }
}
