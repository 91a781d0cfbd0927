/* The largest singular value of the matrix with 1 / ((i + j) (i + j + 1) / 2 + i + 1) in row i and
   column j, cut to argv[1] (8 if not given) rows and columns, by the power method. */
#include "workload.h"

#define MOST 128
#define ROUNDS 5

static double u[MOST], v[MOST], w[MOST];

static double entry(uint32_t i, uint32_t j) { return 1.0 / ((i + j) * (i + j + 1) / 2 + i + 1); }

static void multiply(double *to, const double *from, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < n; j++) sum += entry(i, j) * from[j];
        to[i] = sum;
    }
}

static void multiply_transposed(double *to, const double *from, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < n; j++) sum += entry(j, i) * from[j];
        to[i] = sum;
    }
}

static double product(const double *a, const double *b, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void _start(void) {
    uint32_t n = size_argument(8, MOST);
    union {
        double number;
        uint64_t bits;
    } norm;
    for (uint32_t i = 0; i < n; i++) u[i] = 1;
    for (uint32_t round = 0; round < 2 * ROUNDS; round++) {
        double *from = round % 2 ? v : u, *to = round % 2 ? u : v;
        multiply(w, from, n);
        multiply_transposed(to, w, n);
    }
    /* Now u is what v becomes, nearly a multiple of it. */
    norm.number = __builtin_sqrt(product(u, v, n) / product(v, v, n));
    write_text("norm ");
    write_hex(norm.bits, 16);
    write_text("\n");
}
