// What every generated source has in common: register tiles, packed weights, a barrier, ranges of rows and columns.
//
// A panel is `units` vectors of neighbouring columns. For each of them a product has one vector per slot (gate), side
// by side; the weights of a panel are packed in chunks of at most TILE_VECS vectors, each [k][vector][lane].
#ifndef CELLWRIGHT_LOOPS_H
#define CELLWRIGHT_LOOPS_H

#include <math.h>
#include <sched.h>

#include "contract.h"
#include "vector.h"

#define TILE_ROWS 6
#if VB == 32
#define TILE_VECS 2  // 16 registers: 6 x 2 sums, 2 weights, 1 input
#else
#define TILE_VECS 4  // 32 registers: 6 x 4 sums, 4 weights, 1 input
#endif
#define PACK_DEPTH 64  // rows of a weight that are turned at a time
#define CHUNK 96  // rows that stay in a core's cache between the passes of a stage without time

static inline long ceil_div(long a, long b) { return (a + b - 1) / b; }
static inline long min_of(long a, long b) { return a < b ? a : b; }

// Register tiles: s[row][vector] (+)= a[row][k] * w[k][vector]; every sum is a variable of its own.

#define EACH1(M) M(0)
#define EACH2(M) EACH1(M) M(1)
#define EACH3(M) EACH2(M) M(2)
#define EACH4(M) EACH3(M) M(3)
#define EACH5(M) EACH4(M) M(4)
#define EACH6(M) EACH5(M) M(5)
#define ROW(r) const real *a##r = a + (r) * lda;
#define START1(r) vec c##r##0 = first ? zero : s[(r) * stride];
#define START2(r) START1(r) vec c##r##1 = first ? zero : s[(r) * stride + 1];
#define START3(r) START2(r) vec c##r##2 = first ? zero : s[(r) * stride + 2];
#define START4(r) START3(r) vec c##r##3 = first ? zero : s[(r) * stride + 3];
#define WEIGHTS1 const vec w0 = v_load(w);
#define WEIGHTS2 WEIGHTS1 const vec w1 = v_load(w + VL);
#define WEIGHTS3 WEIGHTS2 const vec w2 = v_load(w + 2 * VL);
#define WEIGHTS4 WEIGHTS3 const vec w3 = v_load(w + 3 * VL);
#define STEP1(r) const vec b##r = v_set1(a##r[k]); c##r##0 += b##r * w0;
#define STEP2(r) STEP1(r) c##r##1 += b##r * w1;
#define STEP3(r) STEP2(r) c##r##2 += b##r * w2;
#define STEP4(r) STEP3(r) c##r##3 += b##r * w3;
#define END1(r) s[(r) * stride] = c##r##0;
#define END2(r) END1(r) s[(r) * stride + 1] = c##r##1;
#define END3(r) END2(r) s[(r) * stride + 2] = c##r##2;
#define END4(r) END3(r) s[(r) * stride + 3] = c##r##3;
#define TILE(R, N)                                                                                                    \
    static void tile_##R##x##N(const real *a, long lda, const real *w, long depth, vec *s, long stride, int first) { \
        const vec zero = v_set1(0);                                                                                   \
        EACH##R(ROW) EACH##R(START##N)                                                                                \
        for (long k = 0; k < depth; k++, w += N * VL) {                                                               \
            WEIGHTS##N EACH##R(STEP##N)                                                                               \
        }                                                                                                             \
        EACH##R(END##N)                                                                                               \
    }
#define TILES(N) TILE(1, N) TILE(2, N) TILE(3, N) TILE(4, N) TILE(5, N) TILE(6, N)
typedef void tile_fn(const real *, long, const real *, long, vec *, long, int);
TILES(1)
TILES(2)
#if TILE_VECS == 4
TILES(3)
TILES(4)
#endif
#define NAMES(N) {tile_1x##N, tile_2x##N, tile_3x##N, tile_4x##N, tile_5x##N, tile_6x##N}
static tile_fn *const tiles[TILE_VECS][TILE_ROWS] = {
    NAMES(1), NAMES(2),
#if TILE_VECS == 4
    NAMES(3), NAMES(4),
#endif
};

// One term of a product for `rows` rows: its weights follow each other chunk by chunk.
static inline void multiply(long rows, long vecs, const real *a, long lda, const real *w, long depth, vec *s, int first) {
    for (long v = 0; v < vecs; v += TILE_VECS) {
        const long n = min_of(TILE_VECS, vecs - v);
        tiles[n - 1][rows - 1](a, lda, w + v * depth * VL, depth, s + v, vecs, first);
    }
}

// Packing: one slot of one term of a product, from any strides.
typedef struct {
    const real *from;            // the weight of row 0, column 0
    long row, column;            // strides of the weight
    real *to;                    // packed weights of the product
    long depth, before, total;   // rows of this term, of those before it, of all
    long width, units, slot, slots;
} Pack;

static void pack(const Pack *job, long part, long parts) {
    const long vectors = ceil_div(job->width, VL), panels = ceil_div(vectors, job->units);
    for (long p = panels * part / parts; p < panels * (part + 1) / parts; p++) {
        const long count = min_of(job->units, vectors - p * job->units), vecs = count * job->slots;
        real *panel = job->to + p * job->units * job->slots * job->total * VL + job->before * vecs * VL;
        for (long u = 0; u < count; u++) {
            const long v = u * job->slots + job->slot, chunk = v / TILE_VECS * TILE_VECS;
            const long n = min_of(TILE_VECS, vecs - chunk), j = (p * job->units + u) * VL;
            const long lanes = min_of(VL, job->width - j);
            real *to = panel + chunk * job->depth * VL + (v - chunk) * VL;
            const real *from = job->from + j * job->column;
            if (job->column == 1 && lanes == VL)
                for (long k = 0; k < job->depth; k++) v_store(to + k * n * VL, v_load(from + k * job->row));
            else
                for (long k0 = 0; k0 < job->depth; k0 += PACK_DEPTH) {
                    const long depth = min_of(PACK_DEPTH, job->depth - k0);
                    for (long l = 0; l < VL; l++) {
                        real *put = to + k0 * n * VL + l;
                        const real *get = from + k0 * job->row + l * job->column;
                        if (l >= lanes) for (long k = 0; k < depth; k++) put[k * n * VL] = 0;
                        else if (job->row == 1) for (long k = 0; k < depth; k++) put[k * n * VL] = get[k];
                        else for (long k = 0; k < depth; k++) put[k * n * VL] = get[k * job->row];
                    }
                }
        }
    }
}

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

// What part of a pass a thread does: rows [b0, b1), and of the columns part `me` of `team`. Scratch rows are at
// b + shift; partial reductions go to slot `me` of `team`.
typedef struct {
    long b0, b1, me, team, shift, thread;
} Range;

static inline real add_of(real a, real b) { return a + b; }
static inline real max_of(real a, real b) { return a > b || a != a ? a : b; }
static inline real least_of(real a, real b) { return a < b || a != a ? a : b; }

// A product after the loops.
typedef struct {
    const real *a;
    long lda;
    const real *d;
    long ldd;
    real *c;
    long rows, columns;
} Block;

#endif
