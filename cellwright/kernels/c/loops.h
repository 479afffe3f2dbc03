// What every generated source has in common: the table of the core, a barrier, ranges of rows and columns.
//
// A panel is at most `units` vectors of neighbouring columns; threads that share columns have as many each. For each of
// them a product has one vector per slot (gate), side by side; the weights of a panel are packed in chunks of as many
// vectors as a tile has, each [term][k][vector][lane].
#ifndef CELLWRIGHT_LOOPS_H
#define CELLWRIGHT_LOOPS_H

#include <math.h>
#include <sched.h>
#include <stdint.h>

#include "beside.h"
#include "vector.h"

#define TILE_ROWS 6
#if VB == 32
#define TILE_VECS 2  // 16 registers: 6 x 2 sums, 2 weights, 1 input
#else
#define TILE_VECS 4  // 32 registers: 6 x 4 sums, 4 weights, 1 input
#endif
#define TILE_MOST_VECS 4  // where rows are few (at most 3): 3 x 4 sums, 3 inputs, 1 weight
static inline long vecs_of_tile(long few) { return few ? TILE_MOST_VECS : TILE_VECS; }
#define MOST_UNITS 4  // vectors of a panel, as render.py has them
#define SHARED_UNITS 2  // the same where threads share columns and products are in thirds
#define GROUP_ROWS 36  // rows that a pass goes through at once: tiles below each other
#define NEAR (48 * 1024)  // bytes of weights that a core's first cache holds, or most of them
#define THIRDS_ROWS 32  // the same where they are split in thirds: two tiles
#define BLOCK_DEPTH 32  // numbers that such a tile sums over
#define THIRDS 768      // numbers' worth of memory of a block: a tile of each third
#define CHUNK 96  // rows that stay in a core's cache between the passes of a stage without time

static inline long ceil_div(long a, long b) { return (a + b - 1) / b; }
static inline long min_of(long a, long b) { return a < b ? a : b; }
// Rows of a group in its upper tile.
static inline long high_rows(long rows) { return rows > THIRDS_ROWS / 2 ? ceil_div(rows, 2) : rows; }

// At how many points the tiles of a product go on with what is beside it: with lower rows a vector takes twice as long.
static inline long points_of(long rows, long vecs, long blocks) {
    return (rows > high_rows(rows) ? 3 : 1) * vecs * blocks;
}

// Panels: panel p of so many has the vectors vectors * p / panels up to those of the next.
static inline long panels_of(long vectors, long units, long team) {
    return min_of(ceil_div(ceil_div(vectors, units), team) * team, vectors);
}

// Panels of weights from afar go to and fro, step by step: those that came last are still near.
static inline long panel_at(long place, long from, long to, long back) { return back ? from + to - 1 - place : place; }

// A barrier of the team, which spins and then gives way.
typedef struct {
    _Alignas(64) int arrived;
    _Alignas(64) int phase;
} Barrier;

static void barrier(Barrier *b, int team) {
    if (team == 1) return;
    const int phase = __atomic_load_n(&b->phase, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_ACQ_REL) == team) {
        __atomic_store_n(&b->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long spins = 0; __atomic_load_n(&b->phase, __ATOMIC_ACQUIRE) == phase; spins++)
        if (spins > 20000) sched_yield();
}

// The core: functions of core.h.
typedef struct {
    const real *a;  // the first row of what is multiplied
    long lda, depth;
} Term;
typedef void tile_fn(const Term *terms, long count, long row, const real *w, const real *ahead, vec *s, long stride);
// Packing: one slot of one term of a product, from any strides.
typedef struct {
    const real *from;            // the weight of row 0, column 0
    long row, column;            // strides of the weight
    long to;                     // where the packed weights of the product start
    long depth, before, total;   // rows of this term, of those before it, of all
    long width, units, slot, slots;
    long few, team;              // whether it meets few rows; how many threads share its columns
    long thirds_to;              // in thirds: where those of the product start
    long blocks_before, blocks;  // blocks of the terms before it, of all
} Pack;

// Memory whose digest tells whether it changed: 64 sums of words, mixed so that every single change shows.
typedef struct {
    const void *at;
    long bytes;
} Piece;

// A product after the loops: C += A^T D over all rows, its columns in segments that each are a matrix of their own.
typedef struct {
    const real *a;
    long lda;
    const real *d;
    long ldd;
    real *c;
    long rows, columns, segment;
} Block;

typedef struct {
    tile_fn *const (*tiles)[TILE_MOST_VECS][TILE_ROWS];  // [whether they fetch ahead][vectors - 1][rows - 1]
    void (*pack)(const Pack *job, real *packed, long part, long parts);
    uint64_t (*digest)(const Piece *piece, long part, long parts);
    // Returns how many numbers of scratch the team needs, which is all it does without.
    long (*contract)(const Block *block, long count, long K, real *scratch, Barrier *barrier, int me, int team);
    // In thirds (thirds.h); null where there are none.
    int (*multiply_fresh)(const Term *terms, long first, long rows, long vecs, real *a, const real *w, long blocks,
                          vec *s, Beside *beside);
    void (*multiply_thirds)(long rows, long vecs, const real *a, const real *w, long blocks, vec *s,
                            Beside *beside);
    void (*multiply_odd)(const Term *terms, long count, long first, long rows, long vecs, const real *w, long blocks,
                         vec *s);
    int (*pack_thirds)(const Pack *job, real *packed, long part, long parts);
    void (*release_tiles)(void);
} Core;

#ifndef CELLWRIGHT_CORE
static Core core;
void connect(const Core *table) { core = *table; }

// A product, the sum of its terms, for `rows` rows: its weights follow each other in chunks of `most` vectors. All
// tiles of rows meet a chunk that the first-level cache holds before the next comes, else each tile all chunks. Weights
// that come from afar at every step say what comes after them: tiles meanwhile fetch the next chunk, a vector a turn.
static inline void multiply(long row, long rows, long vecs, long most, const Term *terms, long count, const real *w,
                            long total, vec *s, const real *after) {
    const long blocks = ceil_div(rows, TILE_ROWS), low = rows / blocks, higher = rows % blocks;
    const long step = after || total * most * VB <= NEAR ? most : vecs;
    for (long start = 0; start < vecs; start += step)
        for (long block = 0, first = 0; block < blocks; block++) {
            const long height = low + (block < higher), stop = min_of(start + step, vecs);
            for (long v = start; v < stop; v += most) {
                const long n = min_of(most, stop - v);
                const real *here = w + v * total * VL, *next = v + n < vecs ? w + (v + n) * total * VL : after;
                const int fetch = after && block < most;
                const real *ahead = fetch ? next + block * total * VL : here;
                vec *to = s + first * vecs + v;
                core.tiles[fetch][n - 1][height - 1](terms, count, row + first, here, ahead, to, vecs);
            }
            first += height;
        }
}

// A product of a pass: its terms, its weights, and where its rows are to lie in thirds, if they are.
typedef struct {
    const Term *terms;
    long count, total, blocks, slots;
    const real *w;
    real *parted;
    int odd;  // whether rows are not all finite, as far as they were split
} Inputs;

// Its weights from a vector of columns on.
static inline const real *weights_from(const Inputs *in, long start) {
    return in->w + start * in->slots * (in->parted ? in->blocks * THIRDS : in->total * VL);
}

static inline long points(const Inputs *in, long rows, long count) {
    return points_of(rows, count * in->slots, in->blocks);
}

// Of a group of rows, `fresh` where no panel met them before.
static inline void product(Inputs *in, long group, int fresh, long row, long rows, long start, long count, long most,
                           vec *s, const real *after, Beside *beside) {
    const long vecs = count * in->slots, blocks = in->blocks;
    const real *w = weights_from(in, start);
    real *a = in->parted ? in->parted + group * 2 * blocks * THIRDS : 0;
    if (!in->parted) multiply(row, rows, vecs, most, in->terms, in->count, w, in->total, s, after);
    else if (!in->odd && fresh) in->odd = core.multiply_fresh(in->terms, row, rows, vecs, a, w, blocks, s, beside);
    else if (!in->odd) core.multiply_thirds(rows, vecs, a, w, blocks, s, beside);
    if (in->odd) core.multiply_odd(in->terms, in->count, row, rows, vecs, w, blocks, s);
}

// What part of a pass a thread does: rows [b0, b1), and of the columns part `me` of `team`. Scratch rows are at
// b + shift; partial reductions go to slot `me` of `team`.
typedef struct {
    long b0, b1, me, team, shift, thread;
} Range;

static inline real add_of(real a, real b) { return a + b; }
static inline real max_of(real a, real b) { return a > b || a != a ? a : b; }
static inline real least_of(real a, real b) { return a < b || a != a ? a : b; }

#endif  // CELLWRIGHT_CORE

#endif
