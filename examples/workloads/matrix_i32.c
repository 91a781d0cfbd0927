/* Multiplies two matrices of argv[1] (18 if not given) rows and columns, modulo 2^32. */
#include "workload.h"

#define MOST 64

static uint32_t a[MOST][MOST], b[MOST][MOST];

void _start(void) {
    uint32_t n = size_argument(18, MOST), state = 1, checksum = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++) {
            state = state * 1664525 + 1013904223;
            a[i][j] = state >> 16;
            b[i][j] = state & 0xffff;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++) {
            uint32_t sum = 0;
            for (uint32_t k = 0; k < n; k++) sum += a[i][k] * b[k][j];
            checksum = 31 * checksum + sum;
        }
    }
    write_text("product ");
    write_hex(checksum, 8);
    write_text("\n");
}
