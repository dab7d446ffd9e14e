/* What a user of the driver writes. */
#include "lenet5.h"

int classify(void *registers, void *memory, uint32_t base, uint32_t polls, const int8_t *image, int8_t *scores, uint32_t *cycles)
{
    struct systolith engine;
    int result;

    systolith_init(&engine, registers);
    result = systolith_check(&engine, &lenet5);
    if (result != SYSTOLITH_OK) {
        return result;
    }
    systolith_write_program(memory, &lenet5);
    systolith_write_map(memory, &lenet5.input, image);
    result = systolith_run(&engine, base, polls);
    *cycles = systolith_cycles(&engine);
    if (result == SYSTOLITH_OK) {
        systolith_read_map(memory, &lenet5.output, scores);
    }
    return result;
}
