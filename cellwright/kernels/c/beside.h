// What else a thread does while its tiles multiply: they take 16 cycles a product, of which it needs one to ask for it.
#ifndef CELLWRIGHT_BESIDE_H
#define CELLWRIGHT_BESIDE_H

// Work in units, which are spread over the points at which tiles have products to do.
typedef struct Beside {
    void (*more)(struct Beside *beside, long units);
    long left, units, points;  // units that are left, and of how many; points
    long due;                  // what came due since a unit was done, in parts of a unit, of which it has `points`
} Beside;

static inline void start_beside(Beside *b, long units) { b->left = b->units = units, b->due = 0; }

// At a point.
static inline void go_on(Beside *b) {
    long units = 0;
    if (!b || !b->left) return;
    for (b->due += b->units; b->due >= b->points && units < b->left; b->due -= b->points) units++;
    if (!units) return;
    b->left -= units;
    b->more(b, units);
}

// At the end.
static inline void do_rest(Beside *b) {
    const long left = b->left;
    b->left = 0;
    if (left) b->more(b, left);
}

#endif
