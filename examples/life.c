/* Plays the game of life on a torus 32 cells wide and 16 high, for argv[1] generations from an
   r-pentomino and a glider, and prints the last one. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define HEIGHT 16

/* A bit per cell, the leftmost the highest. */
static uint32_t grid[HEIGHT] = {
    [1] = 0x20000000, [2] = 0x10000000, [3] = 0x70000000,
    [8] = 0x00006000, [9] = 0x0000c000, [10] = 0x00004000,
};

/* All 32 cells of a row at once. The neighbours are counted in three bits, modulo 8, which is
   enough: with eight as with none, a cell is dead. */
static uint32_t next_row(uint32_t above, uint32_t row, uint32_t below) {
    uint32_t neighbours[8] = {
        above << 1 | above >> 31, above, above >> 1 | above << 31,
        row << 1 | row >> 31,            row >> 1 | row << 31,
        below << 1 | below >> 31, below, below >> 1 | below << 31,
    };
    uint32_t ones = 0, twos = 0, fours = 0;
    for (int i = 0; i < 8; i++) {
        uint32_t carry = ones & neighbours[i];
        ones ^= neighbours[i];
        fours ^= twos & carry;
        twos ^= carry;
    }
    return (ones | row) & twos & ~fours; /* three, or two around a living cell */
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: life GENERATIONS\n", stderr);
        return 1;
    }
    for (int generation = atoi(argv[1]); generation > 0; generation--) {
        uint32_t first = grid[0], above = grid[HEIGHT - 1];
        for (int y = 0; y < HEIGHT; y++) {
            uint32_t row = grid[y];
            grid[y] = next_row(above, row, y + 1 < HEIGHT ? grid[y + 1] : first);
            above = row;
        }
    }
    for (int y = 0; y < HEIGHT; y++) {
        char line[33];
        for (int x = 0; x < 32; x++) line[x] = grid[y] << x >> 31 ? '#' : '.';
        line[32] = 0;
        puts(line);
    }
    return 0;
}
