/* Multiplies two matrices of argv[1] (12 if not given) rows and columns, in floating point, and
   prints the bits of the sum of the product's entries, weighted so that their places matter. */
#include "workload.h"

#define MOST 48

static double a[MOST][MOST], b[MOST][MOST];

void _start(void) {
    uint32_t n = size_argument(12, MOST), state = 1;
    union {
        double number;
        uint64_t bits;
    } sum = {0};
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++) {
            state = state * 1664525 + 1013904223;
            a[i][j] = (state >> 16) / 65536.0;
            b[i][j] = 1 / (1.0 + (state & 0xffff));
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++) {
            double entry = 0;
            for (uint32_t k = 0; k < n; k++) entry += a[i][k] * b[k][j];
            sum.number = sum.number / 2 + entry;
        }
    }
    write_text("product ");
    write_hex(sum.bits, 16);
    write_text("\n");
}
