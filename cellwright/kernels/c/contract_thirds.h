// The products of contract.h in thirds: the same plan and shares, tiles of up to 32 rows by 32 columns.
#ifndef CELLWRIGHT_CONTRACT_THIRDS_H
#define CELLWRIGHT_CONTRACT_THIRDS_H

#include "contract_plain.h"
#include "thirds.h"

#define PANEL 32  // rows of a group and columns of a panel: two tiles by two

#ifdef HAS_THIRDS

#define THIRDS_DEPTH 768L            // most k in a block: to load and to store sums costs as much as 100 of k
#define THIRDS_SHALLOW 256L          // the same where A has many rows, of which only some are packed at once then
#define THIRDS_BLOCK (600L * 1024)  // bytes of packed A, in a second-level cache beside much of C
#define THIRDS_LEAST 16    // rows and columns from which on it pays to split both
#define THIRDS_HALVES 12L  // tenths of k a column of C from which on it pays to sum two halves of k apart

static long thirds_depth(long K, long groups) {
    const long fits = THIRDS_BLOCK / (PANEL / VL * THIRDS * (long)sizeof(real)) / groups * BLOCK_DEPTH;
    const long blocks = contract_up(K, contract_max(THIRDS_SHALLOW, contract_min(THIRDS_DEPTH, fits)));
    return contract_up(contract_up(K, blocks), BLOCK_DEPTH) * BLOCK_DEPTH;
}

// Groups of A packed at once.
static long thirds_high(long depth) {
    return contract_max(1, THIRDS_BLOCK / (PANEL / VL * THIRDS * (long)sizeof(real)) / (depth / BLOCK_DEPTH));
}

// Which products are better done so.
static int contract_in_thirds(const contract_job *job) {
    return job->K > BLOCK_DEPTH && contract_min(job->M, job->N) >= THIRDS_LEAST && thirds_ready();
}

// Turning lines costs more for A than for C where A has the more columns by far.
static contract_job contract_thirds_plan(contract_job job) {
    if (job.M <= 2 * job.N) return job;
    contract_job other = job;
    other.A = job.D, other.lda = job.ldd, other.M = job.N;
    other.D = job.A, other.ldd = job.lda, other.N = job.M;
    other.exchanged = !job.exchanged;
    return other;
}

// Columns of A or D, 32 rows from k on of `depth`: into block k of their tiles.
static void contract_split(const real *from, long step, long k, long depth, long columns, int turned, real *to,
                           vec *odd) {
    const long blocks = contract_up(depth, BLOCK_DEPTH);
    for (long n = 0; n < columns; n += VL) {
        const Lines lines = lines_across(from + k * step + n, step, depth - k, 1, columns - n);
        split(to + (n / VL * blocks + k / BLOCK_DEPTH) * THIRDS, &lines, turned, odd);
    }
}

// Products that share D lie below each other, each in groups of 32 rows.
static long contract_groups(const contract_job *jobs, long count) {
    long groups = 0;
    for (long p = 0; p < count; p++) groups += contract_up(jobs[p].M, PANEL);
    return groups;
}

// How many reals of scratch a thread needs for them.
static long contract_thirds_scratch(const contract_job *jobs, long count) {
    const long groups = contract_groups(jobs, count), depth = thirds_depth(jobs->K, groups);
    return PANEL / VL * (1 + contract_min(groups, thirds_high(depth))) * (depth / BLOCK_DEPTH) * THIRDS;
}

typedef struct {
    const contract_job *job;
    long m, rows;
} contract_group;

static contract_group contract_group_at(const contract_job *jobs, long group) {
    for (long groups; group >= (groups = contract_up(jobs->M, PANEL)); jobs++) group -= groups;
    return (contract_group){jobs, group * PANEL, contract_min(PANEL, jobs->M - group * PANEL)};
}

// Between a square of a tile and a C that is transposed.
static void contract_turn(const contract_job *job, long m, long n, real *tile, int load) {
    vec square[VL];
    for (int i = 0; i < VL; i++) square[i] = v_load(load ? contract_at(job, m, n + i) : tile + i * PANEL);
    v_transpose(square);
    for (int i = 0; i < VL; i++) v_store(load ? tile + i * PANEL : contract_at(job, m, n + i), square[i]);
}

// Between a tile and a C that it cannot reach itself: transposed, cut off at the right, or with columns that lie apart.
static void contract_by_hand(const contract_group *g, long n, long cols, real *tile, int load) {
    const contract_job *job = g->job;
    for (long i = 0; i < g->rows; i += VL)
        for (long j = 0; j < cols; j += VL) {
            const long m = g->m + i, rows = contract_min(VL, g->rows - i), width = contract_min(VL, cols - j);
            real *part = tile + i * PANEL + j;
            const int whole = rows == VL && width == VL && m % job->segment + VL <= job->segment;
            if (job->exchanged && whole) contract_turn(job, m, n + j, part, load);
            for (long k = 0; k < rows * width && !(job->exchanged && whole); k++) {
                real *c = contract_at(job, m + k / width, n + j + k % width), *t = part + k / width * PANEL + k % width;
                *(load ? t : c) = *(load ? c : t);
            }
        }
}

// The tiles of a group in a panel, over `depth` of k: the first time C is written, then added to.
static void contract_tiles(const contract_group *g, int first, long depth, long n, long cols, const real *a,
                           const real *d) {
    real tile[PANEL * PANEL] __attribute__((aligned(VB)));
    const contract_job *job = g->job;
    const int whole = !job->exchanged && cols % VL == 0 && n % job->segment + cols <= job->segment;
    if (!whole && !first) contract_by_hand(g, n, cols, tile, 1);
    multiply_group(g->rows, contract_min(g->rows, VL), contract_up(cols, VL), a, d, contract_up(depth, BLOCK_DEPTH),
                   whole ? contract_at(job, g->m, n) : tile, whole ? job->ldc : PANEL, first, 0);
    if (!whole) contract_by_hand(g, n, cols, tile, 0);
}

// Fetches what comes next of D, part i of n.
static void contract_fetch(const real *next, long ldd, long depth, long i, long n) {
    for (long k = depth * i / n; next && k < depth * (i + 1) / n; k++)
        for (long v = 0; v < PANEL; v += VL) __builtin_prefetch(next + k * ldd + v, 0, 2);
}

// Whether the sums of products that share D are cut in halves, each with a C of its own: of two threads each then splits
// half of A, not all of it, but one C is added to the other.
static int contract_in_halves(const contract_job *job) { return job->K * 10 > job->N * THIRDS_HALVES; }
static long contract_half(long K) { return contract_up(contract_up(K, BLOCK_DEPTH), 2) * BLOCK_DEPTH; }

// Of `all` groups g0..g1, and the columns n0..n1 of products that share D. Returns NaN where it met a number that is not
// finite: the results are of no use then.
static real contract_thirds_part(const contract_job *jobs, long all, long g0, long g1, long n0, long n1, real *scratch) {
    const long K = jobs->K, ldd = jobs->ldd, most = thirds_depth(K, all), high = thirds_high(most);
    real *panel = scratch, *packed = scratch + PANEL / VL * (most / BLOCK_DEPTH) * THIRDS;
    vec odd = v_set1(0);
    for (long k = 0; k < K; k += most)
        for (long from = g0; from < g1; from += high) {
            const long depth = contract_min(most, K - k), groups = contract_min(high, g1 - from);
            const long size = PANEL / VL * contract_up(depth, BLOCK_DEPTH) * THIRDS;
            for (long row = 0; row < depth; row += BLOCK_DEPTH)  // whole rows are what the memory reads well
                for (long i = 0; i < groups; i++) {
                    const contract_group g = contract_group_at(jobs, from + i);
                    const real *a = g.job->A + k * g.job->lda + g.m;
                    contract_split(a, g.job->lda, row, depth, g.rows, 1, packed + i * size, &odd);
                }
            for (long n = n0; n < n1; n += PANEL) {
                const real *d = jobs->D + k * ldd + n, *next = n + PANEL < n1 ? d + PANEL : 0;
                const long cols = contract_min(PANEL, n1 - n);
                for (long row = 0; row < depth; row += BLOCK_DEPTH)
                    contract_split(d, ldd, row, depth, cols, 0, panel, &odd);
                for (long i = 0; i < groups; i++) {
                    const contract_group g = contract_group_at(jobs, from + i);
                    shape_tiles(g.rows, contract_min(g.rows, VL));
                    contract_fetch(next, ldd, depth, i, groups);
                    contract_tiles(&g, k == 0, depth, n, cols, packed + i * size, panel);
                }
            }
        }
    release_tiles();
    return v_sum(odd);
}

#else
static int contract_in_thirds(const contract_job *job) { return (void)job, 0; }
static contract_job contract_thirds_plan(contract_job job) { return job; }
static long contract_thirds_scratch(const contract_job *jobs, long count) { return (void)jobs, (void)count, 0; }
static long contract_groups(const contract_job *jobs, long count) { return (void)jobs, (void)count, 0; }
static int contract_in_halves(const contract_job *job) { return (void)job, 0; }
static long contract_half(long K) { return K; }
static real contract_thirds_part(const contract_job *jobs, long all, long g0, long g1, long n0, long n1, real *scratch) {
    return (void)jobs, (void)all, (void)g0, (void)g1, (void)n0, (void)n1, (void)scratch, 0;
}
#endif
#endif
