/* Shortest paths from vertex 0 of a graph of argv[1] (80 if not given) vertices, by Dijkstra's
   method without a heap: the nearest open vertex is searched in an array. */
#include "workload.h"

#define MOST 1024
#define EDGES 4 /* that leave a vertex */
#define FAR 0xffffffff

static struct {
    uint32_t target, length;
} edges[MOST][EDGES];
static uint32_t distance[MOST];
static uint8_t done[MOST];

void _start(void) {
    uint32_t n = size_argument(80, MOST), state = 1, sum = 0, farthest = 0;
    for (uint32_t v = 0; v < n; v++) {
        for (uint32_t e = 0; e < EDGES; e++) {
            state = state * 1664525 + 1013904223;
            /* The first edges make a circle, so that every vertex is reached. */
            edges[v][e].target = e ? (state >> 16) % n : (v + 1) % n;
            edges[v][e].length = 1 + (state >> 8 & 255);
        }
        distance[v] = v ? FAR : 0;
    }
    for (uint32_t round = 0; round < n; round++) {
        uint32_t nearest = 0, least = FAR;
        for (uint32_t v = 0; v < n; v++) {
            if (done[v] || distance[v] >= least) continue;
            nearest = v;
            least = distance[v];
        }
        done[nearest] = 1;
        sum += least;
        farthest = least; /* they come in order */
        for (uint32_t e = 0; e < EDGES; e++) {
            uint32_t target = edges[nearest][e].target, length = least + edges[nearest][e].length;
            if (length < distance[target]) distance[target] = length;
        }
    }
    write_text("farthest ");
    write_number(farthest);
    write_text(", sum ");
    write_number(sum);
    write_text("\n");
}
