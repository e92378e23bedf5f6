/* SPDX-License-Identifier: Apache-2.0 */
/* A small driver of the machine, in C99: registers only. Whoever uses it gives memory and says where it lies.
 *
 * It needs a3d.h, which `a3d generate` writes, and no library. docs/programming.md explains it. */
#ifndef A3D_DRIVER_H
#define A3D_DRIVER_H

#include <stdint.h>

/* The registers of one machine: how to read and write the 32 bits at a byte offset. */
typedef struct {
    uint32_t (*read)(void *context, uint32_t offset);
    void (*write)(void *context, uint32_t offset, uint32_t value);
    void *context;
} a3d_device;

/* What a function found. */
typedef enum {
    A3D_OK = 0,
    A3D_RUNNING,        /* the stream has not ended yet */
    A3D_FAILED,         /* the stream was stopped: see a3d_error */
    A3D_NOT_READY,      /* the machine is still busy, or cleans up after a reset or an error */
    A3D_NO_MACHINE,     /* nothing of this kind is at these registers */
    A3D_OTHER_VERSION,  /* its instructions and registers are of another major version */
    A3D_OTHER_MACHINE   /* it has another configuration than the header: streams are not for it */
} a3d_result;

/* What of V-Cache a stream finds. */
#define A3D_KEEP_ALL UINT32_MAX /* all that earlier streams loaded */
#define A3D_KEEP_NONE 0u        /* nothing; any other number: the tiles below it, in every tier */

/* Interrupts, for a3d_interrupts; those that a3d_take_interrupts returns. */
#define A3D_ON_DONE 1u
#define A3D_ON_ERROR 2u

/* Why a stream was stopped. */
typedef struct {
    uint32_t code;    /* A3D_REG_ERROR_CODE_CODE_... of a3d.h */
    uint32_t pc;      /* index of the instruction in its stream */
    uint64_t address; /* byte of memory, where the error has to do with one */
} a3d_fault;

/* Registers that lie in the address space of the processor. */
a3d_device a3d_at(volatile uint32_t *base);

/* Is it the machine of this header? Interrupts are off afterwards and none is pending. */
a3d_result a3d_init(const a3d_device *device);

/* Size of a channel group's memory, and the bytes of it that streams may write: from `base` up to `limit`. */
void a3d_memory(const a3d_device *device, unsigned group, uint64_t bytes, uint64_t base, uint64_t limit);

/* Cycles without progress after which a stream is stopped; 0: never. */
void a3d_watchdog(const a3d_device *device, uint32_t cycles);

/* Which events raise the interrupt: A3D_ON_DONE, A3D_ON_ERROR, both or none. */
void a3d_interrupts(const a3d_device *device, uint32_t events);

/* Starts the stream at a byte address in group 0; `kept` is A3D_KEEP_ALL, A3D_KEEP_NONE or a number of tiles. */
a3d_result a3d_start(const a3d_device *device, uint64_t stream, uint32_t kept);

/* A3D_RUNNING, A3D_OK after END, or A3D_FAILED. */
a3d_result a3d_poll(const a3d_device *device);

/* Can a stream be started? A3D_OK or A3D_NOT_READY. After an error it takes as many cycles as a tier has tiles. */
a3d_result a3d_ready(const a3d_device *device);

/* Events that are pending; they are no longer afterwards, and the interrupt falls. For the handler. */
uint32_t a3d_take_interrupts(const a3d_device *device);

/* Why the last stream was stopped. */
a3d_fault a3d_error(const a3d_device *device);

/* The name of an error code. */
const char *a3d_error_name(uint32_t code);

/* A performance counter by the offset of its low half: A3D_REG_COUNT_..._LO. */
uint64_t a3d_counter(const a3d_device *device, uint32_t low);

#endif
