/* Prints in how many ways n queens can stand on an n x n board without attacking each other, for
   n = argv[1] from 1 to 16. */
#include <stdio.h>
#include <stdlib.h>

/* Places the remaining rows. A mask has a bit per column: taken, or attacked along a diagonal. */
static unsigned place(unsigned board, unsigned taken, unsigned falling, unsigned rising) {
    if (taken == board) return 1;
    unsigned count = 0;
    unsigned open = board & ~(taken | falling | rising);
    while (open) {
        unsigned queen = open & -open;
        open -= queen;
        count += place(board, taken | queen, (falling | queen) << 1, (rising | queen) >> 1);
    }
    return count;
}

int main(int argc, char **argv) {
    int n = argc == 2 ? atoi(argv[1]) : 0;
    if (n < 1 || n > 16) {
        fprintf(stderr, "usage: queens N, from 1 to 16\n");
        return 1;
    }
    printf("%d queens: %u ways\n", n, place((1u << n) - 1, 0, 0, 0));
    return 0;
}
