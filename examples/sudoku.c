/* Solves sudokus from standard input, one per line: 81 characters, row after row, digits for the
   givens and '.' or '0' for the rest. Prints each solution as nine lines, or "no solution".

   For each digit, the cells that can still hold it are bits of three 27-bit words, a word for a
   band of three rows: bit 9 * row + column. A minirow is the three cells of a row in one box, a
   minicolumn the three cells of a column in one box. All rules work on whole words:

   - a cell left with one digit holds it;
   - a digit with one cell left in a row, column or box is there;
   - a digit that is in one minirow of a box is nowhere else in that row, and one that is in one
     minirow of a row is nowhere else in that box; minicolumns alike.

   When nothing more follows, a cell with fewest digits is guessed. */
#include <stdint.h>
#include <stdio.h>

#define BAND 0x7ffffffu

struct board {
    uint32_t places[9][3]; /* by digit and band */
    uint32_t seen[9][3];   /* the places when `narrow` was last done with the digit */
    uint32_t solved[3];
};

static uint32_t peers[81][3]; /* of a cell, by band: its row, column and box, itself included */

/* Bits come in groups of three, `step` apart, the first of each in `firsts`. */
struct groups {
    int step;
    uint32_t firsts;
};

static const struct groups minirow = {1, 0x1249249}; /* the cells of a minirow of a band */
static const struct groups minicolumn = {9, 0x1ff};  /* the cells of a minicolumn of a band */
/* With a minirow's first cell for all of it: */
static const struct groups row = {3, 0x40201}; /* the minirows of a row */
static const struct groups box = {9, 0x49};    /* the minirows of a box */
/* With bit 9 * band + column for a minicolumn: */
static const struct groups column = {9, 0x1ff};             /* the minicolumns of a column */
static const struct groups box_by_columns = {1, 0x1249249}; /* the minicolumns of a box */

static uint32_t all_of(struct groups g, uint32_t firsts) {
    return firsts | firsts << g.step | firsts << 2 * g.step;
}

/* The groups with a bit in the set ... */
static uint32_t some(struct groups g, uint32_t set) {
    return (set | set >> g.step | set >> 2 * g.step) & g.firsts;
}

/* ... and those with just one. */
static uint32_t one(struct groups g, uint32_t set) {
    uint32_t a = set, b = set >> g.step, c = set >> 2 * g.step;
    return (a ^ b ^ c) & ~(a & b & c) & g.firsts;
}

/* What shares a group with members, without them. */
static uint32_t others(struct groups g, uint32_t members) {
    return all_of(g, some(g, members)) & ~members;
}

static void make_peers(void) {
    for (int cell = 0; cell < 81; cell++) {
        int at = cell % 27, x = cell % 9;
        for (int band = 0; band < 3; band++) peers[cell][band] = all_of(column, 1u << x);
        peers[cell][cell / 27] |= 0x1ffu << (at - x) | 0x1c0e07u << (x - x % 3);
    }
}

static void place(struct board *b, int digit, int band, uint32_t bit) {
    const uint32_t *remove = peers[27 * band + __builtin_ctz(bit)];
    uint32_t *places = b->places[digit];
    for (int i = 0; i < 9; i++) b->places[i][band] &= ~bit;
    places[0] &= ~remove[0];
    places[1] &= ~remove[1];
    places[2] &= ~remove[2];
    places[band] |= bit;
    b->solved[band] |= bit;
}

/* Places a digit in all these cells of a band; 0 if two of them exclude each other. */
static int place_all(struct board *b, int digit, int band, uint32_t cells) {
    for (; cells; cells &= cells - 1) {
        if (!(b->places[digit][band] & cells & -cells)) return 0;
        place(b, digit, band, cells & -cells);
    }
    return 1;
}

/* Places the digits that are alone in their cells. 1 if there were some, 0 if none, -1 if a cell
   has no digit left. */
static int fill(struct board *b) {
    int filled = 0;
    for (int band = 0; band < 3; band++) {
        uint32_t once = 0, twice = 0;
        for (int i = 0; i < 9; i++) {
            twice |= once & b->places[i][band];
            once |= b->places[i][band];
        }
        if (once != BAND) return -1;
        uint32_t found = once & ~twice & ~b->solved[band];
        if (!found) continue;
        for (int i = 0; i < 9; i++) {
            if (!place_all(b, i, band, found & b->places[i][band])) return -1;
        }
        filled = 1;
    }
    return filled;
}

/* Applies the rules for one digit in the rows, columns and boxes; 0 if one has no place for it. */
static int narrow(struct board *b, int digit) {
    uint32_t *places = b->places[digit], found[3];
    uint32_t minicolumns = 0, single_minicolumns = 0;
    for (int band = 0; band < 3; band++) {
        uint32_t now = places[band];
        uint32_t minirows = some(minirow, now);
        if (some(row, minirows) != row.firsts || some(box, minirows) != box.firsts) return 0;
        uint32_t in_row = minirows & all_of(row, one(row, minirows));
        uint32_t in_box = minirows & all_of(box, one(box, minirows));
        now &= ~all_of(minirow, others(row, in_box) | others(box, in_row));
        found[band] = now & all_of(minirow, one(minirow, now) & (in_row | in_box));
        places[band] = now;
        minicolumns |= some(minicolumn, now) << 9 * band;
        single_minicolumns |= one(minicolumn, now) << 9 * band;
    }
    if (some(column, minicolumns) != column.firsts) return 0;
    uint32_t in_column = minicolumns & all_of(column, one(column, minicolumns));
    uint32_t in_box = minicolumns & all_of(box_by_columns, one(box_by_columns, minicolumns));
    uint32_t no = others(column, in_box) | others(box_by_columns, in_column);
    uint32_t single = single_minicolumns & in_column;
    for (int band = 0; band < 3; band++) {
        found[band] |= places[band] & all_of(minicolumn, single >> 9 * band & 0x1ff);
        places[band] &= ~all_of(minicolumn, no >> 9 * band & 0x1ff);
        b->seen[digit][band] = places[band];
    }
    for (int band = 0; band < 3; band++) {
        if (!place_all(b, digit, band, found[band] & ~b->solved[band])) return 0;
    }
    return 1;
}

/* Applies all rules until nothing more follows; 0 if there is no solution. */
static int propagate(struct board *b) {
    int filled;
    while ((filled = fill(b)) >= 0) {
        if (filled) continue;
        int narrowed = 0;
        for (int digit = 0; digit < 9; digit++) {
            const uint32_t *now = b->places[digit], *seen = b->seen[digit];
            if (now[0] == seen[0] && now[1] == seen[1] && now[2] == seen[2]) continue;
            if (!narrow(b, digit)) return 0;
            narrowed = 1;
        }
        if (!narrowed) return 1;
    }
    return 0;
}

/* The bit and the band of an unsolved cell with as few digits as any; 0 if all are solved. */
static uint32_t choose(const struct board *b, int *in_band) {
    uint32_t best = 0, fewest = 10;
    for (int band = 0; band < 3; band++) {
        uint32_t at_least[5] = {0}; /* the cells with so many digits */
        uint32_t rest = BAND & ~b->solved[band];
        for (int i = 0; i < 9; i++) {
            uint32_t cells = b->places[i][band] & rest;
            at_least[4] |= at_least[3] & cells;
            at_least[3] |= at_least[2] & cells;
            at_least[2] |= at_least[1] & cells;
            at_least[1] |= cells;
        }
        for (uint32_t count = 2; count < 5 && count < fewest; count++) {
            uint32_t cells = count < 4 ? rest & ~at_least[count + 1] : rest;
            if (!cells) continue;
            best = cells & -cells;
            fewest = count;
            *in_band = band;
        }
    }
    return best;
}

static int solve(struct board *b) {
    if (!propagate(b)) return 0;
    int band;
    uint32_t cell = choose(b, &band);
    if (!cell) return 1;
    for (int digit = 0; digit < 9; digit++) {
        if (!(b->places[digit][band] & cell)) continue;
        struct board guess = *b;
        place(&guess, digit, band, cell);
        if (solve(&guess)) {
            *b = guess;
            return 1;
        }
    }
    return 0;
}

/* Reads a line: 1 if it is a sudoku, 0 at the end of the input, -1 if it is something else. */
static int read_givens(char *givens) {
    int c, length = 0;
    while ((c = getchar()) != '\n' && c != EOF) {
        if (length == 81 || !(c == '.' || (c >= '0' && c <= '9'))) return -1;
        givens[length++] = (char)(c == '.' ? '0' : c);
    }
    return length == 81 ? 1 : length == 0 && c == EOF ? 0 : -1;
}

static int solve_givens(struct board *b, const char *givens) {
    for (int band = 0; band < 3; band++) {
        for (int digit = 0; digit < 9; digit++) {
            b->places[digit][band] = BAND;
            b->seen[digit][band] = 0;
        }
        b->solved[band] = 0;
    }
    for (int cell = 0; cell < 81; cell++) {
        int digit = givens[cell] - '1';
        if (digit >= 0 && !place_all(b, digit, cell / 27, 1u << cell % 27)) return 0;
    }
    return solve(b);
}

int main(void) {
    char givens[81];
    struct board b;
    int more;
    make_peers();
    while ((more = read_givens(givens)) > 0) {
        if (!solve_givens(&b, givens)) {
            puts("no solution");
            continue;
        }
        for (int cell = 0; cell < 81; cell++) {
            int digit = 0;
            while (!(b.places[digit][cell / 27] >> cell % 27 & 1)) digit++;
            putchar('1' + digit);
            if (cell % 9 == 8) putchar('\n');
        }
    }
    if (more < 0) {
        fputs("sudoku: 81 digits or dots in a line, please\n", stderr);
        return 1;
    }
    return 0;
}
