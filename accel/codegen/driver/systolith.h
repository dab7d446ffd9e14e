/* Driver of the engine: C99, no operating system, no allocation, no library.
 *
 *     static struct systolith engine;
 *     systolith_init(&engine, (void *)0x40000000);          the registers
 *     if (systolith_check(&engine, &lenet5) != SYSTOLITH_OK) ...;
 *     systolith_write_program(memory, &lenet5);             once
 *     systolith_write_map(memory, &lenet5.input, image);    for each image
 *     result = systolith_run(&engine, base, 1000000);
 *     systolith_read_map(memory, &lenet5.output, scores);
 *
 * `memory` is where the processor sees the program's memory: `memory_bytes` bytes, of which it writes the program and the input.
 * `base` is where the engine sees the same memory: a multiple of SYSTOLITH_BASE_ALIGNMENT. Between the two there may be caches:
 * clean what was written before systolith_start(), invalidate the output before systolith_read_map().
 *
 * Results: SYSTOLITH_OK, an `enum systolith_error` (positive: why the engine stopped), or another `enum systolith_result`. */
#ifndef SYSTOLITH_H
#define SYSTOLITH_H

#include <stdint.h>

#include "systolith_regs.h"

#ifdef __cplusplus
extern "C" {
#endif

enum systolith_result {
    SYSTOLITH_OK = 0,
    SYSTOLITH_RUNNING = -1,      /* a program is running */
    SYSTOLITH_IDLE = -2,         /* none is running, none has ended since reset or systolith_clear() */
    SYSTOLITH_TIMEOUT = -3,      /* it is still running after that many polls */
    SYSTOLITH_WRONG_ISA = -4,    /* the engine has another instruction set than the program */
    SYSTOLITH_WRONG_DIGEST = -5, /* the engine has another configuration than the program */
    SYSTOLITH_BAD_BASE = -6      /* the base is no multiple of SYSTOLITH_BASE_ALIGNMENT */
};

/* A map (height, width, channels) of signed bytes: where it lies from the program's base on, and what its bytes stand for. */
struct systolith_map {
    uint32_t address;
    uint32_t height, width, channels;
    uint32_t channels_per_word; /* channels in a plane */
    uint32_t element_bytes;     /* bytes of a pixel in a plane */
    int32_t zero_point;
    double scale; /* real value = scale * (byte - zero_point) */
};

/* A compiled network. */
struct systolith_program {
    const uint8_t *image;
    uint32_t image_bytes;  /* written before the first run */
    uint32_t memory_bytes; /* used in all */
    uint32_t isa_version, digest_low, digest_high;
    struct systolith_map input, output;
};

struct systolith {
    volatile void *registers;
};

void systolith_init(struct systolith *engine, volatile void *registers);

/* Whether the engine can run the program. */
int systolith_check(const struct systolith *engine, const struct systolith_program *program);

/* Copies the instructions and parameters. They stay: once is enough for any number of runs. */
void systolith_write_program(void *memory, const struct systolith_program *program);

/* Copies a map whose bytes are in the order (height, width, channels) into, or out of, the program's memory. */
void systolith_write_map(void *memory, const struct systolith_map *map, const int8_t *values);
void systolith_read_map(const void *memory, const struct systolith_map *map, int8_t *values);

/* Starts the program at the engine's address `base`. After an error nothing starts until systolith_clear(): it is returned. */
int systolith_start(const struct systolith *engine, uint32_t base);

/* What the engine is doing: SYSTOLITH_RUNNING, SYSTOLITH_IDLE, or how the latest program ended. */
int systolith_poll(const struct systolith *engine);

/* Polls until the program has ended, but `polls` times at most: then SYSTOLITH_TIMEOUT, and it still runs. */
int systolith_wait(const struct systolith *engine, uint32_t polls);

/* Starts and waits. */
int systolith_run(const struct systolith *engine, uint32_t base, uint32_t polls);

/* Stops whatever runs and forgets how it ended. SYSTOLITH_TIMEOUT if memory does not answer within `polls` polls. */
int systolith_clear(const struct systolith *engine, uint32_t polls);

/* Raises the interrupt, or does not, while a program has ended; systolith_start() and systolith_clear() lower it. */
void systolith_enable_interrupt(const struct systolith *engine, int enable);

/* Clock cycles of the latest program, and the byte offset in it of the instruction that an error was found at. */
uint32_t systolith_cycles(const struct systolith *engine);
uint32_t systolith_error_address(const struct systolith *engine);

#ifdef __cplusplus
}
#endif

#endif
