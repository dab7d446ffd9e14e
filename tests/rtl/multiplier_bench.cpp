// Clocks multiplier_bench.v until it is done, and prints how many products it checked and how many were wrong.
#include "Vbench.h"
#include <cstdio>

double sc_time_stamp() { return 0; }

int main() {
    Vbench bench;
    while (!bench.done) {
        bench.clk = 0;
        bench.eval();
        bench.clk = 1;
        bench.eval();
    }
    std::printf("%u %u\n", bench.checked, bench.wrong);
}
