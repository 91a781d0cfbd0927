/* Copies argv[1] (4000 if not given) words to and fro between two tables, 31 KiB in all, with
   strides: neighbours in one lie far from each other in the other. */
#include "workload.h"

#define MOST 16384

static uint32_t here[MOST], there[MOST];

/* to[0], to[1], ... from from[0], from[stride], ...; whatever lies between these comes later. */
static void gather(uint32_t *to, const uint32_t *from, uint32_t stride, uint32_t n) {
    for (uint32_t start = 0; start < stride; start++) {
        for (uint32_t i = start; i < n; i += stride) *to++ = from[i];
    }
}

void _start(void) {
    uint32_t n = size_argument(4000, MOST), state = 1, checksum = 0;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        here[i] = state >> 8;
    }
    gather(there, here, 64, n);
    gather(here, there, 17, n);
    for (uint32_t i = 0; i < n; i++) checksum = 31 * checksum + here[i];
    write_text("copied ");
    write_hex(checksum, 8);
    write_text("\n");
}
