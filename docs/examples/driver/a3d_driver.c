/* SPDX-License-Identifier: Apache-2.0 */
#include "a3d_driver.h"

#include "a3d.h"

/* Memory that the processor has written must be there before the machine reads it, and what the machine has written
 * must be read again: where there are caches or write buffers, define this as what they need. */
#ifndef A3D_BARRIER
#define A3D_BARRIER() ((void)0)
#endif

static uint32_t get(const a3d_device *device, uint32_t offset)
{
    return device->read(device->context, offset);
}

static void put(const a3d_device *device, uint32_t offset, uint32_t value)
{
    device->write(device->context, offset, value);
}

static void put_wide(const a3d_device *device, uint32_t low, uint64_t value)
{
    put(device, low, (uint32_t)value);
    put(device, low + 4, (uint32_t)(value >> 32));
}

static uint32_t mapped_read(void *context, uint32_t offset)
{
    return ((volatile uint32_t *)context)[offset / 4];
}

static void mapped_write(void *context, uint32_t offset, uint32_t value)
{
    ((volatile uint32_t *)context)[offset / 4] = value;
}

a3d_device a3d_at(volatile uint32_t *base)
{
    a3d_device device = {mapped_read, mapped_write, (void *)base};
    return device;
}

a3d_result a3d_init(const a3d_device *device)
{
    const uint32_t major = A3D_REG_VERSION_MAJOR_MASK;

    if (get(device, A3D_REG_ID) != A3D_REG_ID_VALUE)
        return A3D_NO_MACHINE;
    /* Of another major version not even the offsets below are certain. */
    if ((get(device, A3D_REG_VERSION) & major) != (A3D_REG_VERSION_VALUE & major))
        return A3D_OTHER_VERSION;
    if (get(device, A3D_REG_CONFIG_HASH) != A3D_REG_CONFIG_HASH_VALUE)
        return A3D_OTHER_MACHINE;
    a3d_interrupts(device, 0);
    (void)a3d_take_interrupts(device);
    return A3D_OK;
}

void a3d_memory(const a3d_device *device, unsigned group, uint64_t bytes, uint64_t base, uint64_t limit)
{
    put_wide(device, group ? A3D_REG_MEMORY1_BYTES_LO : A3D_REG_MEMORY0_BYTES_LO, bytes);
    put_wide(device, group ? A3D_REG_WINDOW1_BASE_LO : A3D_REG_WINDOW0_BASE_LO, base);
    put_wide(device, group ? A3D_REG_WINDOW1_LIMIT_LO : A3D_REG_WINDOW0_LIMIT_LO, limit);
}

void a3d_watchdog(const a3d_device *device, uint32_t cycles)
{
    put(device, A3D_REG_WATCHDOG, cycles);
}

void a3d_interrupts(const a3d_device *device, uint32_t events)
{
    uint32_t enabled = 0;

    if (events & A3D_ON_DONE)
        enabled |= A3D_REG_IRQ_ENABLE_DONE_MASK;
    if (events & A3D_ON_ERROR)
        enabled |= A3D_REG_IRQ_ENABLE_ERROR_MASK;
    put(device, A3D_REG_IRQ_ENABLE, enabled);
}

a3d_result a3d_start(const a3d_device *device, uint64_t stream, uint32_t kept)
{
    uint32_t control = A3D_REG_CONTROL_START_MASK;

    /* A start of a machine that is not ready is ignored, which nobody would notice. */
    if (a3d_ready(device) != A3D_OK)
        return A3D_NOT_READY;
    put_wide(device, A3D_REG_STREAM_BASE_LO, stream);
    if (kept != A3D_KEEP_ALL) {
        put(device, A3D_REG_KEPT_TILES, kept);
        control |= A3D_REG_CONTROL_INVALIDATE_MASK;
    }
    A3D_BARRIER();
    put(device, A3D_REG_CONTROL, control);
    return A3D_OK;
}

a3d_result a3d_poll(const a3d_device *device)
{
    uint32_t status = get(device, A3D_REG_STATUS);

    if (!(status & (A3D_REG_STATUS_DONE_MASK | A3D_REG_STATUS_ERROR_MASK)))
        return A3D_RUNNING;
    A3D_BARRIER();
    return status & A3D_REG_STATUS_ERROR_MASK ? A3D_FAILED : A3D_OK;
}

a3d_result a3d_ready(const a3d_device *device)
{
    return get(device, A3D_REG_STATUS) & A3D_REG_STATUS_READY_MASK ? A3D_OK : A3D_NOT_READY;
}

uint32_t a3d_take_interrupts(const a3d_device *device)
{
    uint32_t pending = get(device, A3D_REG_IRQ_PENDING);
    uint32_t events = 0;

    /* Only what was seen is cleared: what comes between is pending still. */
    put(device, A3D_REG_IRQ_PENDING, pending);
    if (pending & A3D_REG_IRQ_PENDING_DONE_MASK)
        events |= A3D_ON_DONE;
    if (pending & A3D_REG_IRQ_PENDING_ERROR_MASK)
        events |= A3D_ON_ERROR;
    return events;
}

a3d_fault a3d_error(const a3d_device *device)
{
    a3d_fault fault;

    fault.code = (get(device, A3D_REG_ERROR_CODE) & A3D_REG_ERROR_CODE_CODE_MASK) >> A3D_REG_ERROR_CODE_CODE_SHIFT;
    fault.pc = get(device, A3D_REG_ERROR_PC);
    fault.address = get(device, A3D_REG_ERROR_ADDRESS_LO);
    fault.address |= (uint64_t)get(device, A3D_REG_ERROR_ADDRESS_HI) << 32;
    return fault;
}

const char *a3d_error_name(uint32_t code)
{
    switch (code) {
    case 0: return "none";
    case A3D_REG_ERROR_CODE_CODE_ILLEGAL_OPCODE: return "ILLEGAL_OPCODE";
    case A3D_REG_ERROR_CODE_CODE_ILLEGAL_FIELD: return "ILLEGAL_FIELD";
    case A3D_REG_ERROR_CODE_CODE_RANGE: return "RANGE";
    case A3D_REG_ERROR_CODE_CODE_ADDRESS: return "ADDRESS";
    case A3D_REG_ERROR_CODE_CODE_AXI_READ: return "AXI_READ";
    case A3D_REG_ERROR_CODE_CODE_AXI_WRITE: return "AXI_WRITE";
    case A3D_REG_ERROR_CODE_CODE_AXI_FETCH: return "AXI_FETCH";
    case A3D_REG_ERROR_CODE_CODE_SEMAPHORE: return "SEMAPHORE";
    case A3D_REG_ERROR_CODE_CODE_VCACHE_MISS: return "VCACHE_MISS";
    case A3D_REG_ERROR_CODE_CODE_WATCHDOG: return "WATCHDOG";
    default: return "unknown";
    }
}

uint64_t a3d_counter(const a3d_device *device, uint32_t low)
{
    uint32_t high, below, again;

    /* While a stream runs, the low half may overflow between the two reads. */
    again = get(device, low + 4);
    do {
        high = again;
        below = get(device, low);
        again = get(device, low + 4);
    } while (again != high);
    return (uint64_t)high << 32 | below;
}
