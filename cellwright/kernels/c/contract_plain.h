// The products of contract.h in the numbers' own type.
//
// The sum is cut into blocks of k; in a block, C is cut into panels of columns and those into tiles of up to 6 rows
// by 4 vectors, which stay in registers. A block of A is packed once, a panel of D just before its tiles, both only
// where they are used more than once. Compile with -ffp-contract=fast: else no fused multiply-add.
#ifndef CELLWRIGHT_CONTRACT_PLAIN_H
#define CELLWRIGHT_CONTRACT_PLAIN_H

#include <stdint.h>
#include <string.h>

#include "vector.h"

#define CONTRACT_ROWS 6  // of a tile: with the vectors below, all registers but those for one row of D and one of A
#if VB == 64
#define CONTRACT_VECS 4
#else
#define CONTRACT_VECS 2
#endif
#define CONTRACT_COLS (CONTRACT_VECS * VL)
#define CONTRACT_DEPTH 384             // most k in a block
#define CONTRACT_BLOCK (640L * 1024)   // bytes of packed A: it shares a second-level cache of 1 MiB with a panel of D
#define CONTRACT_SHALLOW (32L * 1024)  // bytes of D in a block that one strip of A reads: nearly in memory's order
#define CONTRACT_CHUNK 8               // rows of A packed at a time

static inline long contract_min(long a, long b) { return a < b ? a : b; }
static inline long contract_max(long a, long b) { return a > b ? a : b; }
static inline long contract_up(long a, long b) { return (a + b - 1) / b; }

// ---- tiles ----------------------------------------------------------------------------------------------------------

#define CONTRACT_EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)

#define CONTRACT_ZERO(i) vec c##i##0 = {0}, c##i##1 = {0}, c##i##2 = {0}, c##i##3 = {0};

#define CONTRACT_STEP(i)                  \
    if (i < rows) {                       \
        const vec x = v_set1(a[i]);       \
        c##i##0 += x * d0;                \
        if (vecs > 1) c##i##1 += x * d1;  \
        if (vecs > 2) c##i##2 += x * d2;  \
        if (vecs > 3) c##i##3 += x * d3;  \
    }

#define CONTRACT_KEEP(i)                                                    \
    if (i < rows) {                                                         \
        contract_keep(c + i * ldc, c##i##0, first);                         \
        if (vecs > 1) contract_keep(c + i * ldc + VL, c##i##1, first);      \
        if (vecs > 2) contract_keep(c + i * ldc + 2 * VL, c##i##2, first);  \
        if (vecs > 3) contract_keep(c + i * ldc + 3 * VL, c##i##3, first);  \
    }

typedef struct {
    long depth;
    const real *a, *d;
    long lda, ldd;
    real *pack;        // where the tile that packs puts D
    real *c;
    long ldc;
    int first;  // block of k: C is written, not added to
} contract_args;

static inline void contract_keep(real *c, vec sum, int first) { v_store(c, first ? sum : v_load(c) + sum); }

// One tile over one block of k. `rows`, `vecs` and `packs` are constants where this is inlined; the accumulators have
// names because compilers keep an array of them in memory. The first tile of a panel may pack D for those below it, to
// `pack`.
static inline __attribute__((always_inline)) void contract_tile(const int rows, const int vecs, const int packs,
                                                                const contract_args *t) {
    const long depth = t->depth, lda = t->lda, ldd = t->ldd, ldc = t->ldc;
    const real *a = t->a, *d = t->d;
    real *c = t->c, *pack = t->pack;
    const int first = t->first;
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) __builtin_prefetch(c + i * ldc + v * VL, 1);
    CONTRACT_EACH_ROW(CONTRACT_ZERO)
#pragma GCC unroll 2
    for (long k = 0; k < depth; k++, a += lda, d += ldd) {
        const vec d0 = v_load(d);
        const vec d1 = vecs > 1 ? v_load(d + VL) : d0;
        const vec d2 = vecs > 2 ? v_load(d + 2 * VL) : d0;
        const vec d3 = vecs > 3 ? v_load(d + 3 * VL) : d0;
        if (packs) {
            v_store(pack, d0);
            if (vecs > 1) v_store(pack + VL, d1);
            if (vecs > 2) v_store(pack + 2 * VL, d2);
            if (vecs > 3) v_store(pack + 3 * VL, d3);
            pack += vecs * VL;
        }
        CONTRACT_EACH_ROW(CONTRACT_STEP)
        (void)d1, (void)d2, (void)d3;
    }
    CONTRACT_EACH_ROW(CONTRACT_KEEP)
}

typedef void contract_fn(const contract_args *t);

#define CONTRACT_FN(rows, vecs) \
    static void contract_##rows##x##vecs(const contract_args *t) { contract_tile(rows, vecs, 0, t); }
#define CONTRACT_FNS(vecs)                                          \
    CONTRACT_FN(1, vecs) CONTRACT_FN(2, vecs) CONTRACT_FN(3, vecs)  \
    CONTRACT_FN(4, vecs) CONTRACT_FN(5, vecs) CONTRACT_FN(6, vecs)
#define CONTRACT_NAMES(vecs) \
    { contract_1x##vecs, contract_2x##vecs, contract_3x##vecs, contract_4x##vecs, contract_5x##vecs, contract_6x##vecs }

CONTRACT_FNS(1)
CONTRACT_FNS(2)
#if CONTRACT_VECS == 4
CONTRACT_FNS(3)
CONTRACT_FNS(4)
#endif
static void contract_packing(const contract_args *t) { contract_tile(CONTRACT_ROWS, CONTRACT_VECS, 1, t); }

static contract_fn *const contract_fns[CONTRACT_VECS][CONTRACT_ROWS] = {
    CONTRACT_NAMES(1),
    CONTRACT_NAMES(2),
#if CONTRACT_VECS == 4
    CONTRACT_NAMES(3),
    CONTRACT_NAMES(4),
#endif
};

// ---- packing --------------------------------------------------------------------------------------------------------

static inline void contract_copy(real *to, const real *from, int height) {
    if (height == CONTRACT_ROWS) memcpy(to, from, CONTRACT_ROWS * sizeof(real));  // two or three moves
    else
        for (int i = 0; i < height; i++) to[i] = from[i];
}

// A's columns in strips of 6 (the last may be narrower), each strip [k][its rows]. No padding anywhere. A few rows of A
// at a time, for all strips: whole rows are what the memory reads well.
static void contract_pack_a(real *to, const real *a, long lda, long depth, long rows) {
    for (long k = 0; k < depth; k += CONTRACT_CHUNK) {
        const real *end = a + contract_min(CONTRACT_CHUNK, depth - k) * lda;
        for (long m = 0; m < rows; m += CONTRACT_ROWS) {
            const int height = (int)contract_min(CONTRACT_ROWS, rows - m);
            real *strip = to + m * depth + k * height;
            for (const real *from = a + m; from < end; from += lda, strip += height) contract_copy(strip, from, height);
        }
        a = end;
    }
}

// A panel of D as [k][whole vectors]. What pads the last vector only meets columns that are thrown away.
static void contract_pack_d(real *to, const real *d, long ldd, long depth, long cols) {
    const int whole = (int)(cols / VL), part = (int)(cols % VL);
    for (long k = 0; k < depth; k++, d += ldd) {
        for (int v = 0; v < whole; v++, to += VL) v_store(to, v_load(d + v * VL));
        if (part) {
            v_store(to, v_load_n(d + whole * VL, part));
            to += VL;
        }
    }
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

// Exchanging A and D transposes C.
typedef struct {
    const real *A, *D;
    real *C;
    long lda, ldd, ldc, segment, next;  // columns of a segment of C; from one to the next
    int exchanged;
    long K, M, N;
    long depth, high;  // of a block, in k and in rows
    long from, first;  // in a family: columns of D before its own, groups of A before its own
} contract_job;

static inline real *contract_at(const contract_job *job, long m, long n) {
    const long row = job->exchanged ? n : m, col = job->exchanged ? m : n, segment = col / job->segment;
    return job->C + segment * job->next + row * job->ldc + (col - segment * job->segment);
}

// Few columns waste most of a vector: then A gives the columns.
static int contract_exchange(long M, long N) {
    return N < CONTRACT_COLS && contract_up(M, VL) * N < contract_up(N, VL) * M;
}

static long contract_depth(long K, long M, long N) {
    long most = CONTRACT_BLOCK / (long)sizeof(real) / contract_max(M, 1);
    most = contract_min(CONTRACT_DEPTH, contract_max(most, CONTRACT_DEPTH * 2 / 3));
    if (M <= CONTRACT_ROWS)
        most = contract_min(most, contract_max(16, CONTRACT_SHALLOW / (long)sizeof(real) / contract_max(N, 1)));
    const long blocks = contract_max(1, contract_up(K, most));
    return contract_up(K, blocks);
}

static long contract_high(long depth, long M) {
    const long most = CONTRACT_BLOCK / (long)sizeof(real) / contract_max(depth, 1) / CONTRACT_ROWS * CONTRACT_ROWS;
    const long blocks = contract_max(1, contract_up(M, most));
    return contract_up(contract_up(M, blocks), CONTRACT_ROWS) * CONTRACT_ROWS;
}

static contract_job contract_plan(const real *A, long lda, const real *D, long ldd, real *C, long ldc, long segment,
                                  long K, long M, long N) {
    contract_job job = {A, D, C, lda, ldd, ldc, segment, M * ldc, 0, K, M, N, 0, 0, 0, 0};
    if (contract_exchange(M, N)) job = (contract_job){D, A, C, ldd, lda, ldc, segment, M * ldc, 1, K, N, M, 0, 0, 0, 0};
    job.depth = contract_depth(K, job.M, job.N);
    job.high = contract_high(job.depth, job.M);
    return job;
}

// A tile that is cut off at the right, or whose columns are not next to each other, goes through a small buffer.
static void contract_edge(const contract_job *job, const real *tile, long m, int rows, long n, long cols, int first) {
    for (int i = 0; i < rows; i++)
        for (long j = 0; j < cols; j++) {
            real *to = contract_at(job, m + i, n + j);
            const real sum = tile[i * CONTRACT_COLS + j];
            *to = first ? sum : *to + sum;
        }
}

// What all panels of one block share.
typedef struct {
    long k, depth, m, rows;
    const real *a;
    int packed;
} contract_block;

// All tiles of the panel with the columns n to n + cols, in one block. Every tile fetches its share of the next panel
// into the second-level cache (a prefetch never faults): all at once would be more than that can wait for.
static void contract_panel(const contract_job *job, const contract_block *b, long n, long cols, const real *next,
                           real *scratch) {
    real edge[CONTRACT_ROWS * CONTRACT_COLS] __attribute__((aligned(VB)));
    const int vecs = (int)contract_up(cols, VL);
    const int whole = !job->exchanged && cols % VL == 0 && n % job->segment + cols <= job->segment;
    const int packs = b->rows > CONTRACT_ROWS && cols == CONTRACT_COLS;
    contract_args t = {.depth = b->depth, .d = job->D + b->k * job->ldd + n, .ldd = job->ldd, .pack = scratch};
    if (!packs && (b->rows > CONTRACT_ROWS || cols % VL)) {
        contract_pack_d(scratch, t.d, t.ldd, t.depth, cols);
        t.d = scratch;
        t.ldd = vecs * VL;
    }
    long fetched = 0;
    for (long i = 0; i < b->rows; i += CONTRACT_ROWS) {
        const int height = (int)contract_min(CONTRACT_ROWS, b->rows - i);
        t.a = b->packed ? b->a + i * b->depth : b->a + i;
        t.lda = b->packed ? height : job->lda;
        t.c = whole ? contract_at(job, b->m + i, n) : edge;
        t.ldc = whole ? job->ldc : CONTRACT_COLS;
        t.first = !whole || b->k == 0;
        const long share = next ? b->depth * contract_min(i + CONTRACT_ROWS, b->rows) / b->rows : 0;
        for (; fetched < share; fetched++) __builtin_prefetch(next + fetched * job->ldd, 0, 2);
        (packs && i == 0 ? contract_packing : contract_fns[vecs - 1][height - 1])(&t);
        if (!whole) contract_edge(job, edge, b->m + i, height, n, cols, b->k == 0);
        if (packs) t.d = scratch, t.ldd = CONTRACT_COLS;
    }
}

// The panel worth fetching while that at n is computed, or none. If one strip of A is all there is, memory is read
// nearly in its order, and asking for it only disturbs.
static const real *contract_next(const contract_job *job, const contract_block *b, long n, long n0, long n1) {
    if (b->rows <= CONTRACT_ROWS) return 0;
    if (n + CONTRACT_COLS < n1) return job->D + b->k * job->ldd + n + CONTRACT_COLS;
    const long k = b->k + b->depth;
    return k + b->depth <= job->K ? job->D + k * job->ldd + n0 : 0;
}

// The rows m0..m1 and columns n0..n1 of C.
static void contract_part(const contract_job *job, long m0, long m1, long n0, long n1, real *scratch) {
    contract_block b = {.packed = n1 - n0 > CONTRACT_COLS};
    real *block = scratch + CONTRACT_COLS * job->depth;
    do {
        b.depth = contract_min(job->depth, job->K - b.k);
        for (b.m = m0; b.m < m1; b.m += job->high) {
            b.rows = contract_min(job->high, m1 - b.m);
            b.a = job->A + b.k * job->lda + b.m;
            if (b.packed) {
                contract_pack_a(block, b.a, job->lda, b.depth, b.rows);
                b.a = block;
            }
            for (long n = n0; n < n1; n += CONTRACT_COLS)
                contract_panel(job, &b, n, contract_min(CONTRACT_COLS, n1 - n), contract_next(job, &b, n, n0, n1),
                               scratch);
        }
        b.k += b.depth;
    } while (b.k < job->K);
}

#endif
