/* Register access of the C driver, when the engine is a model in native code. */
#include <stdint.h>

uint32_t device_read32(void *device, uint32_t offset);
void device_write32(void *device, uint32_t offset, uint32_t value);

#define systolith_read32(registers, offset) device_read32((void *)(registers), offset)
#define systolith_write32(registers, offset, value) device_write32((void *)(registers), offset, value)
