/* Reads n (at most 64) and n x n costs from standard input, row after row, and prints the cheapest
   assignment of the rows to the columns (Hungarian method, O(n^3)) and its cost. */
#include <limits.h>
#include <stdio.h>

#define MOST 64

static int cost[MOST][MOST];
/* Prices with row_price[r] + column_price[c] <= cost[r][c], and equal where c is assigned to r. */
static int row_price[MOST], column_price[MOST];
static int row_of[MOST]; /* the row assigned to a column, or -1 */

/* Reads an integer and what separates it from the next; 0 if there is none. */
static int read_int(int *value) {
    int c, sign = 1, digits = 0;
    while ((c = getchar()) == ' ' || c == '\n') continue;
    if (c == '-') {
        sign = -1;
        c = getchar();
    }
    *value = 0;
    for (; c >= '0' && c <= '9' && digits < 7; c = getchar(), digits++) {
        *value = 10 * *value + sign * (c - '0');
    }
    return digits > 0 && (c == ' ' || c == '\n' || c == EOF);
}

/* Gives the row a column, moving other rows along the cheapest alternating path. */
static void assign(int row, int n) {
    int distance[MOST], before[MOST], path_cost = 0, column = -1;
    int done[MOST] = {0}, visited[MOST], visits = 0;
    for (int c = 0; c < n; c++) distance[c] = INT_MAX;
    int r = row;
    for (;;) {
        int nearest = -1;
        for (int c = 0; c < n; c++) {
            if (done[c]) continue;
            int d = path_cost + cost[r][c] - row_price[r] - column_price[c];
            if (d < distance[c]) {
                distance[c] = d;
                before[c] = column;
            }
            if (nearest < 0 || distance[c] < distance[nearest]) nearest = c;
        }
        column = nearest;
        path_cost = distance[column];
        if (row_of[column] < 0) break;
        done[column] = 1;
        visited[visits++] = column;
        r = row_of[column];
    }
    row_price[row] += path_cost;
    for (int i = 0; i < visits; i++) {
        int saved = path_cost - distance[visited[i]];
        row_price[row_of[visited[i]]] += saved;
        column_price[visited[i]] -= saved;
    }
    while (before[column] >= 0) {
        row_of[column] = row_of[before[column]];
        column = before[column];
    }
    row_of[column] = row;
}

int main(void) {
    int n, total = 0, column_of[MOST];
    if (!read_int(&n) || n < 1 || n > MOST) {
        fprintf(stderr, "matching: the number of rows, from 1 to %d, is missing\n", MOST);
        return 1;
    }
    for (int r = 0; r < n; r++) {
        for (int c = 0; c < n; c++) {
            if (!read_int(&cost[r][c])) {
                fprintf(stderr, "matching: row %d needs %d costs\n", r + 1, n);
                return 1;
            }
        }
    }
    for (int c = 0; c < n; c++) row_of[c] = -1;
    for (int r = 0; r < n; r++) assign(r, n);
    for (int c = 0; c < n; c++) column_of[row_of[c]] = c;
    for (int r = 0; r < n; r++) {
        printf("%d -> %d: %d\n", r + 1, column_of[r] + 1, cost[r][column_of[r]]);
        total += cost[r][column_of[r]];
    }
    printf("cost %d\n", total);
    return 0;
}
