/* Iterates z^2 + c for argv[1] (12 if not given) x as many points c around the Mandelbrot set. */
#include "workload.h"

#define ITERATIONS 12

void _start(void) {
    uint32_t n = size_argument(12, 256), iterations = 0;
    union {
        double number;
        uint64_t bits;
    } sum = {0};
    for (uint32_t row = 0; row < n; row++) {
        for (uint32_t column = 0; column < n; column++) {
            double x = 0, y = 0, xx = 0, yy = 0;
            double cx = 3.0 * column / n - 2.25, cy = 2.5 * row / n - 1.25;
            for (uint32_t i = 0; i < ITERATIONS && xx + yy < 4; i++) {
                y = 2 * x * y + cy;
                x = xx - yy + cx;
                xx = x * x;
                yy = y * y;
                iterations++;
            }
            sum.number += xx + yy;
        }
    }
    write_number(iterations);
    write_text(" iterations, ");
    write_hex(sum.bits, 16);
    write_text("\n");
}
