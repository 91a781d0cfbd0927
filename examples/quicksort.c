/* Sorts argv[2] (500 if not given, at most 4096) pseudo-random integers made from the seed argv[1],
   and prints the first, the last and a checksum that depends on their order. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST 4096

static int32_t numbers[MOST];

static void insertion_sort(int32_t *from, int32_t *to) {
    for (int32_t *p = from; p < to; p++) {
        int32_t number = *p, *hole = p;
        while (hole > from && hole[-1] > number) {
            *hole = hole[-1];
            hole--;
        }
        *hole = number;
    }
}

/* Sorts from, ..., to - 1. */
static void quicksort(int32_t *from, int32_t *to) {
    while (to - from > 8) {
        int32_t pivot = from[(to - from) / 2];
        int32_t *left = from, *right = to - 1;
        while (left <= right) {
            while (*left < pivot) left++;
            while (*right > pivot) right--;
            if (left <= right) {
                int32_t swap = *left;
                *left++ = *right;
                *right-- = swap;
            }
        }
        if (right - from < to - left) { /* the shorter part first, so that the stack stays small */
            quicksort(from, right + 1);
            from = left;
        } else {
            quicksort(left, to);
            to = right + 1;
        }
    }
    insertion_sort(from, to);
}

int main(int argc, char **argv) {
    int n = argc == 3 ? atoi(argv[2]) : 500;
    if (argc < 2 || argc > 3 || n < 1 || n > MOST) {
        fprintf(stderr, "usage: quicksort SEED [COUNT], COUNT from 1 to %d\n", MOST);
        return 1;
    }
    uint32_t state = (uint32_t)atoi(argv[1]) * 2654435761u | 1;
    for (int i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        numbers[i] = (int32_t)state;
    }
    quicksort(numbers, numbers + n);
    uint32_t checksum = 0;
    for (int i = 0; i < n; i++) checksum = checksum * 31 + (uint32_t)numbers[i];
    printf("%d numbers from %ld to %ld, checksum %08lx\n", n, (long)numbers[0],
           (long)numbers[n - 1], (unsigned long)checksum);
    return 0;
}
