#include <stdio.h>

/* Copies standard input to standard output with every letter moved by 13 places. */
int main(void) {
    int c;
    while ((c = getchar()) != EOF) {
        int lower = c | 32;
        if (lower >= 'a' && lower <= 'z') c += lower <= 'm' ? 13 : -13;
        putchar(c);
    }
    return 0;
}
