/* SPDX-License-Identifier: Apache-2.0 */
/* What the test of the driver does with it. Says where it went wrong by a line number, 0 if nowhere. */
#include "a3d.h"
#include "a3d_driver.h"

#define EXPECT(condition) do { if (!(condition)) return __LINE__; } while (0)
#define MOST_POLLS 100000

/* A stream, its memories' limits and what is expected of it. */
typedef struct {
    uint64_t stream;
    uint64_t bytes[2], base[2], limit[2];
    uint32_t code; /* 0: it ends */
    uint32_t pc;
    uint64_t address;
    uint32_t instructions; /* of one that ends */
} session_stream;

/* The bench: fill the memories for a stream, compare them after it, sleep until the interrupt is up or down. */
typedef struct {
    void (*put)(int number);
    void (*compare)(int number);
    void (*sleep)(int level);
} session_bench;

enum { GOOD, BAD, LOADS, USES, STREAMS };

static int ready(const a3d_device *device)
{
    for (int polls = 0; polls < MOST_POLLS; polls++)
        if (a3d_ready(device) == A3D_OK)
            return 1;
    return 0;
}

static int polled(const a3d_device *device, a3d_result expected)
{
    for (int polls = 0; polls < MOST_POLLS; polls++) {
        a3d_result result = a3d_poll(device);
        if (result != A3D_RUNNING)
            return result == expected;
    }
    return 0;
}

static void prepare(const a3d_device *device, const session_bench *bench, const session_stream *streams, int number)
{
    const session_stream *stream = &streams[number];

    bench->put(number);
    for (unsigned group = 0; group < 2; group++)
        a3d_memory(device, group, stream->bytes[group], stream->base[group], stream->limit[group]);
}

/* Runs a stream by interrupt. */
static int interrupted(const a3d_device *device, const session_bench *bench, const session_stream *stream,
                       uint32_t kept, uint32_t expected)
{
    EXPECT(ready(device));
    a3d_interrupts(device, A3D_ON_DONE | A3D_ON_ERROR);
    EXPECT(a3d_start(device, stream->stream, kept) == A3D_OK);
    bench->sleep(1);
    EXPECT(a3d_take_interrupts(device) == expected);
    bench->sleep(0);
    EXPECT(a3d_take_interrupts(device) == 0);
    a3d_interrupts(device, 0);
    return 0;
}

int session(const a3d_device *device, const session_bench *bench, const session_stream *streams)
{
    const session_stream *good = &streams[GOOD], *bad = &streams[BAD];
    a3d_fault fault;
    int line;

    EXPECT(a3d_init(device) == A3D_OK);
    EXPECT(device->read(device->context, A3D_REG_CAP_ROWS) == A3D_CFG_ROWS);
    a3d_watchdog(device, 50000);
    EXPECT(ready(device));

    /* A good stream, by asking. While it runs there is no second start. */
    prepare(device, bench, streams, GOOD);
    EXPECT(a3d_start(device, good->stream, A3D_KEEP_NONE) == A3D_OK);
    EXPECT(a3d_poll(device) == A3D_RUNNING);
    EXPECT(a3d_start(device, bad->stream, A3D_KEEP_NONE) == A3D_NOT_READY);
    EXPECT(polled(device, A3D_OK));
    bench->compare(GOOD);
    EXPECT(a3d_error(device).code == 0);
    EXPECT(a3d_counter(device, A3D_REG_COUNT_INSTRUCTIONS_LO) == good->instructions);
    EXPECT(a3d_counter(device, A3D_REG_COUNT_CYCLES_LO) > good->instructions);
    /* Its end is pending although nobody had asked for the interrupt. */
    EXPECT(a3d_take_interrupts(device) == A3D_ON_DONE);

    /* A stream with a mistake, by interrupt, and the good one after it. */
    prepare(device, bench, streams, BAD);
    line = interrupted(device, bench, bad, A3D_KEEP_NONE, A3D_ON_ERROR);
    EXPECT(line == 0);
    EXPECT(a3d_poll(device) == A3D_FAILED);
    fault = a3d_error(device);
    EXPECT(fault.code == bad->code);
    EXPECT(fault.pc == bad->pc);
    EXPECT(fault.address == bad->address);
    prepare(device, bench, streams, GOOD);
    line = interrupted(device, bench, good, A3D_KEEP_NONE, A3D_ON_DONE);
    EXPECT(line == 0);
    EXPECT(a3d_poll(device) == A3D_OK);
    EXPECT(a3d_error(device).code == 0);
    bench->compare(GOOD);

    /* One stream loads tile 3, another one uses it: it is there if it is kept, alone or with all. */
    prepare(device, bench, streams, LOADS);
    line = interrupted(device, bench, &streams[LOADS], A3D_KEEP_NONE, A3D_ON_DONE);
    EXPECT(line == 0);
    bench->compare(LOADS);
    prepare(device, bench, streams, USES);
    line = interrupted(device, bench, &streams[USES], A3D_KEEP_ALL, A3D_ON_DONE);
    EXPECT(line == 0);
    bench->compare(USES);
    prepare(device, bench, streams, USES);
    line = interrupted(device, bench, &streams[USES], 4, A3D_ON_DONE);
    EXPECT(line == 0);
    bench->compare(USES);
    line = interrupted(device, bench, &streams[USES], 3, A3D_ON_ERROR);
    EXPECT(line == 0);
    fault = a3d_error(device);
    EXPECT(fault.code == A3D_REG_ERROR_CODE_CODE_VCACHE_MISS && fault.pc == 0);
    return 0;
}

/* Without a machine: registers that are an array, and a counter that overflows its low half while it is read. */
static uint32_t moving[4];

static uint32_t read_moving(void *context, uint32_t offset)
{
    uint32_t value = moving[offset / 4 % 2];

    (void)context;
    if (offset % 8 == 4 && moving[2]++ == 0) {
        moving[0] = 5;
        moving[1] = 8;
    }
    return value;
}

int without_machine(void)
{
    static uint32_t registers[1024];
    a3d_device device = a3d_at(registers);

    EXPECT(a3d_init(&device) == A3D_NO_MACHINE);
    registers[A3D_REG_ID / 4] = A3D_REG_ID_VALUE;
    registers[A3D_REG_VERSION / 4] = A3D_REG_VERSION_VALUE + 0x10000;
    EXPECT(a3d_init(&device) == A3D_OTHER_VERSION);
    registers[A3D_REG_VERSION / 4] = A3D_REG_VERSION_VALUE + 1; /* a later minor one will do */
    registers[A3D_REG_CONFIG_HASH / 4] = ~A3D_REG_CONFIG_HASH_VALUE;
    EXPECT(a3d_init(&device) == A3D_OTHER_MACHINE);
    registers[A3D_REG_CONFIG_HASH / 4] = A3D_REG_CONFIG_HASH_VALUE;
    registers[A3D_REG_IRQ_ENABLE / 4] = 3;
    EXPECT(a3d_init(&device) == A3D_OK);
    EXPECT(registers[A3D_REG_IRQ_ENABLE / 4] == 0);
    EXPECT(a3d_start(&device, 0, A3D_KEEP_ALL) == A3D_NOT_READY);
    EXPECT(registers[A3D_REG_CONTROL / 4] == 0);
    registers[A3D_REG_STATUS / 4] = A3D_REG_STATUS_READY_MASK;
    EXPECT(a3d_start(&device, UINT64_C(0x123456789a), A3D_KEEP_ALL) == A3D_OK);
    EXPECT(registers[A3D_REG_STREAM_BASE_LO / 4] == 0x3456789a);
    EXPECT(registers[A3D_REG_STREAM_BASE_HI / 4] == 0x12);
    EXPECT(registers[A3D_REG_CONTROL / 4] == A3D_REG_CONTROL_START_MASK);
    EXPECT(a3d_start(&device, 0, 7) == A3D_OK);
    EXPECT(registers[A3D_REG_KEPT_TILES / 4] == 7);
    EXPECT(registers[A3D_REG_CONTROL / 4] == (A3D_REG_CONTROL_START_MASK | A3D_REG_CONTROL_INVALIDATE_MASK));

    moving[0] = 0xffffffff;
    moving[1] = 7;
    device.read = read_moving;
    EXPECT(a3d_counter(&device, A3D_REG_COUNT_CYCLES_LO) == ((UINT64_C(8) << 32) | 5));
    return 0;
}
