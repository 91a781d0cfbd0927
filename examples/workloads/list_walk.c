/* Walks a linked list of argv[1] (2000 if not given) nodes of 16 bytes that lie in memory in a
   shuffled order, reverses it and walks it again. */
#include "workload.h"

#define MOST 8192

typedef struct Node {
    struct Node *next;
    uint32_t value, visits, sum;
} Node;

static Node nodes[MOST];
static uint16_t order[MOST];

static uint32_t walk(Node *node, uint32_t sum) {
    for (; node; node = node->next) {
        sum = (sum ^ node->value) * 16777619;
        node->visits++;
        node->sum = sum;
    }
    return sum;
}

void _start(void) {
    uint32_t n = size_argument(2000, MOST), state = 1;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        uint32_t j = (state >> 16) * (i + 1) >> 16;
        order[i] = order[j];
        order[j] = (uint16_t)i;
    }
    Node *first = 0;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        Node *node = nodes + order[i];
        node->value = state >> 8;
        node->next = first;
        first = node;
    }
    uint32_t sum = walk(first, 0);
    Node *reversed = 0;
    while (first) {
        Node *next = first->next;
        first->next = reversed;
        reversed = first;
        first = next;
    }
    write_text("walked ");
    write_hex(walk(reversed, sum), 8);
    write_text("\n");
}
