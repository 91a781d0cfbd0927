/* Five bodies pull each other for argv[1] (16 if not given) steps; prints the bits of their energy,
   before and after, which should differ little. */
#include "workload.h"

#define BODIES 5
#define STEP 0.015625

typedef struct {
    double x[3], v[3], mass;
} Body;

/* A heavy one in the middle; the others circle around it at 1, 2, 4 and 9 with about the speed
   that keeps them there, sqrt(mass / distance). */
static Body bodies[BODIES] = {
    {{0, 0, 0}, {0, 0, 0}, 16},
    {{1, 0, 0}, {0, 4, 0.125}, 0.015625},
    {{0, 2, 0}, {-2.75, 0, 0.25}, 0.0625},
    {{-4, 0, 0.5}, {0, -2, 0}, 0.25},
    {{0, -9, 0}, {1.375, 0, -0.125}, 0.03125},
};

static double square(const double *a) { return a[0] * a[0] + a[1] * a[1] + a[2] * a[2]; }

static void pull(Body *a, Body *b) {
    double way[3];
    for (int k = 0; k < 3; k++) way[k] = b->x[k] - a->x[k];
    double distance2 = square(way), factor = STEP / (distance2 * __builtin_sqrt(distance2));
    for (int k = 0; k < 3; k++) {
        a->v[k] += way[k] * factor * b->mass;
        b->v[k] -= way[k] * factor * a->mass;
    }
}

static void write_energy(void) {
    union {
        double number;
        uint64_t bits;
    } energy = {0};
    for (Body *a = bodies; a < bodies + BODIES; a++) {
        energy.number += a->mass * square(a->v) / 2;
        for (Body *b = bodies; b < a; b++) {
            double way[3];
            for (int k = 0; k < 3; k++) way[k] = b->x[k] - a->x[k];
            energy.number -= a->mass * b->mass / __builtin_sqrt(square(way));
        }
    }
    write_hex(energy.bits, 16);
}

void _start(void) {
    uint32_t n = size_argument(16, 100000);
    write_text("energy ");
    write_energy();
    while (n--) {
        for (Body *a = bodies; a < bodies + BODIES; a++) {
            for (Body *b = bodies; b < a; b++) pull(a, b);
        }
        for (Body *a = bodies; a < bodies + BODIES; a++) {
            for (int k = 0; k < 3; k++) a->x[k] += a->v[k] * STEP;
        }
    }
    write_text(" to ");
    write_energy();
    write_text("\n");
}
