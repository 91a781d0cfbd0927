/* Three equal masses chase each other along a figure of eight, found by Moore, Chenciner and
   Montgomery. Takes argv[1] steps of a leapfrog and prints the bodies and the energy, which should
   not change. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define STEP 0.01

typedef struct {
    double x, y, vx, vy;
} Body;

static Body bodies[3] = {
    {0.97000436, -0.24308753, 0.466203685, 0.43236573},
    {-0.97000436, 0.24308753, 0.466203685, 0.43236573},
    {0, 0, -0.93240737, -0.86473146},
};

/* Gravity for a time, between every two. */
static void pull(double time) {
    for (int i = 0; i < 3; i++) {
        Body *a = &bodies[i], *b = &bodies[(i + 1) % 3];
        double dx = b->x - a->x, dy = b->y - a->y;
        double square = dx * dx + dy * dy, factor = time / (square * sqrt(square));
        a->vx += dx * factor, a->vy += dy * factor;
        b->vx -= dx * factor, b->vy -= dy * factor;
    }
}

static void move(double time) {
    for (int i = 0; i < 3; i++) {
        bodies[i].x += bodies[i].vx * time;
        bodies[i].y += bodies[i].vy * time;
    }
}

static double energy(void) {
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        Body *a = &bodies[i], *b = &bodies[(i + 1) % 3];
        sum += (a->vx * a->vx + a->vy * a->vy) / 2 - 1 / hypot(b->x - a->x, b->y - a->y);
    }
    return sum;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: three_bodies STEPS\n", stderr);
        return 1;
    }
    int steps = atoi(argv[1]);
    printf("energy %.12f\n", energy());
    for (int step = 0; step < steps; step++) {
        move(STEP / 2);
        pull(STEP);
        move(STEP / 2);
    }
    for (int i = 0; i < 3; i++) printf("%+f %+f\n", bodies[i].x, bodies[i].y);
    printf("energy %.12f, after %g\n", energy(), steps * STEP);
    return 0;
}
