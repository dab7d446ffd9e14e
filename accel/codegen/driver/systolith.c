#include "systolith.h"

/* A system whose registers are not in the processor's address space defines SYSTOLITH_IO: a header with functions or macros
 * systolith_read32(registers, offset) and systolith_write32(registers, offset, value). */
#ifdef SYSTOLITH_IO
#include SYSTOLITH_IO
#else
static uint32_t systolith_read32(const volatile void *registers, uint32_t offset)
{
    return *(const volatile uint32_t *)((const volatile uint8_t *)registers + offset);
}

static void systolith_write32(volatile void *registers, uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)((volatile uint8_t *)registers + offset) = value;
}
#endif

/* Orders accesses to memory and to registers. */
#ifndef SYSTOLITH_BARRIER
#ifdef __GNUC__
#define SYSTOLITH_BARRIER() __sync_synchronize()
#else
#define SYSTOLITH_BARRIER() ((void)0)
#endif
#endif

void systolith_init(struct systolith *engine, volatile void *registers)
{
    engine->registers = registers;
}

int systolith_check(const struct systolith *engine, const struct systolith_program *program)
{
    if (systolith_read32(engine->registers, SYSTOLITH_REG_ISA_VERSION) != program->isa_version) {
        return SYSTOLITH_WRONG_ISA;
    }
    if (systolith_read32(engine->registers, SYSTOLITH_REG_DIGEST_LOW) != program->digest_low
        || systolith_read32(engine->registers, SYSTOLITH_REG_DIGEST_HIGH) != program->digest_high) {
        return SYSTOLITH_WRONG_DIGEST;
    }
    return SYSTOLITH_OK;
}

void systolith_write_program(void *memory, const struct systolith_program *program)
{
    uint8_t *to = (uint8_t *)memory;
    uint32_t i;
    for (i = 0; i < program->image_bytes; i++) {
        to[i] = program->image[i];
    }
}

/* Byte offset, from the program's base, of channel 0 of a pixel's element in a plane. */
static uint32_t element(const struct systolith_map *map, uint32_t plane, uint32_t pixel)
{
    return map->address + (plane * map->height * map->width + pixel) * map->element_bytes;
}

void systolith_write_map(void *memory, const struct systolith_map *map, const int8_t *values)
{
    uint8_t *to = (uint8_t *)memory;
    uint32_t pixel, channel;
    for (pixel = 0; pixel < map->height * map->width; pixel++) {
        for (channel = 0; channel < map->channels; channel++) {
            to[element(map, channel / map->channels_per_word, pixel) + channel % map->channels_per_word] = (uint8_t)*values++;
        }
    }
}

void systolith_read_map(const void *memory, const struct systolith_map *map, int8_t *values)
{
    const int8_t *from = (const int8_t *)memory;
    uint32_t pixel, channel;
    for (pixel = 0; pixel < map->height * map->width; pixel++) {
        for (channel = 0; channel < map->channels; channel++) {
            *values++ = from[element(map, channel / map->channels_per_word, pixel) + channel % map->channels_per_word];
        }
    }
}

int systolith_start(const struct systolith *engine, uint32_t base)
{
    int state = systolith_poll(engine);
    if (state == SYSTOLITH_RUNNING || state > SYSTOLITH_OK) {
        return state;
    }
    if (base % SYSTOLITH_BASE_ALIGNMENT != 0) {
        return SYSTOLITH_BAD_BASE;
    }
    SYSTOLITH_BARRIER();
    systolith_write32(engine->registers, SYSTOLITH_REG_BASE, base);
    systolith_write32(engine->registers, SYSTOLITH_REG_CONTROL, SYSTOLITH_CONTROL_START);
    return SYSTOLITH_OK;
}

int systolith_poll(const struct systolith *engine)
{
    uint32_t status = systolith_read32(engine->registers, SYSTOLITH_REG_STATUS);
    SYSTOLITH_BARRIER();
    if ((status & SYSTOLITH_STATUS_BUSY) != 0) {
        return SYSTOLITH_RUNNING;
    }
    if ((status & SYSTOLITH_STATUS_ERROR) != 0) {
        return (int)((status & SYSTOLITH_STATUS_CODE) >> SYSTOLITH_STATUS_CODE_SHIFT);
    }
    return (status & SYSTOLITH_STATUS_DONE) != 0 ? SYSTOLITH_OK : SYSTOLITH_IDLE;
}

int systolith_wait(const struct systolith *engine, uint32_t polls)
{
    int state = SYSTOLITH_RUNNING;
    while (polls-- > 0 && state == SYSTOLITH_RUNNING) {
        state = systolith_poll(engine);
    }
    return state == SYSTOLITH_RUNNING ? SYSTOLITH_TIMEOUT : state;
}

int systolith_run(const struct systolith *engine, uint32_t base, uint32_t polls)
{
    int result = systolith_start(engine, base);
    return result == SYSTOLITH_OK ? systolith_wait(engine, polls) : result;
}

int systolith_clear(const struct systolith *engine, uint32_t polls)
{
    /* The first stops what runs, which then ends with an error; the second forgets that. */
    systolith_write32(engine->registers, SYSTOLITH_REG_CONTROL, SYSTOLITH_CONTROL_CLEAR);
    if (systolith_wait(engine, polls) == SYSTOLITH_TIMEOUT) {
        return SYSTOLITH_TIMEOUT;
    }
    systolith_write32(engine->registers, SYSTOLITH_REG_CONTROL, SYSTOLITH_CONTROL_CLEAR);
    return SYSTOLITH_OK;
}

void systolith_enable_interrupt(const struct systolith *engine, int enable)
{
    systolith_write32(engine->registers, SYSTOLITH_REG_INTERRUPT_ENABLE, enable ? SYSTOLITH_INTERRUPT_ENABLE_ENABLE : 0u);
}

uint32_t systolith_cycles(const struct systolith *engine)
{
    return systolith_read32(engine->registers, SYSTOLITH_REG_CYCLES);
}

uint32_t systolith_error_address(const struct systolith *engine)
{
    return systolith_read32(engine->registers, SYSTOLITH_REG_ERROR_ADDRESS);
}
