// The products of contract.h in thirds: the same plan and shares, tiles of up to 32 rows by 32 columns.
#ifndef CELLWRIGHT_CONTRACT_THIRDS_H
#define CELLWRIGHT_CONTRACT_THIRDS_H

#include "contract_family.h"
#include "thirds.h"

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

// Turning lines costs more for A than for C where A has the more columns by far, all `rows` of it that meet this D.
static contract_job contract_thirds_plan(contract_job job, long rows) {
    if (rows <= 2 * job.N) return job;
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

// Reals of 32 rows of A or columns of D, `depth` of k.
static long contract_tall(long depth) { return PANEL / VL * contract_up(depth, BLOCK_DEPTH) * THIRDS; }

// How many reals of scratch a thread needs for a family: groups of A, a panel of D and the one after it.
static long contract_thirds_scratch(const contract_family *f) {
    const long depth = thirds_depth(f->K, f->groups);
    return (2 + contract_min(f->groups, thirds_high(depth))) * contract_tall(depth);
}

typedef struct {
    const contract_job *job;
    long m, rows;
} contract_group;

static contract_group contract_group_of(const contract_job *job, long group) {
    const long m = (group - job->first) * PANEL;
    return (contract_group){job, m, contract_min(PANEL, job->M - m)};
}

// Between a square of a tile, all of it or its upper left, and lines of C, where it lies turned if C is transposed.
static void contract_square(const contract_job *job, real *c, long rows, long cols, real *tile, int load) {
    const long lines = job->exchanged ? cols : rows, lanes = job->exchanged ? rows : cols;
    vec square[VL];
    for (long i = 0; i < VL; i++)
        square[i] = load ? v_load_n(c + i * job->ldc, (int)(i < lines ? lanes : 0)) : v_load(tile + i * PANEL);
    if (job->exchanged) v_transpose(square);
    for (long i = 0; i < (load ? VL : lines); i++)
        if (load) v_store(tile + i * PANEL, square[i]);
        else v_store_n(c + i * job->ldc, square[i], (int)lanes);
}

// The same where lines of C fall in two segments.
static void contract_apart(const contract_job *job, long m, long n, long rows, long cols, real *tile, int load) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < cols; j++) {
            real *c = contract_at(job, m + i, n + j), *t = tile + i * PANEL + j;
            *(load ? t : c) = *(load ? c : t);
        }
}

// Between a tile and a C that it cannot reach itself: of parts of squares, or with columns that lie apart.
static void contract_by_hand(const contract_group *g, long n, long cols, real *tile, int load) {
    const contract_job *job = g->job;
    for (long i = 0; i < g->rows; i += VL)
        for (long j = 0; j < cols; j += VL) {
            const long m = g->m + i, rows = contract_min(VL, g->rows - i), width = contract_min(VL, cols - j);
            const long first = job->exchanged ? m : n + j, lanes = job->exchanged ? rows : width;
            real *part = tile + i * PANEL + j;
            if (first % job->segment + lanes > job->segment) contract_apart(job, m, n + j, rows, width, part, load);
            else contract_square(job, contract_at(job, m, n + j), rows, width, part, load);
        }
}

// Whether tiles reach C themselves; one that is transposed in whole squares, each in its place.
static int contract_reached(const contract_group *g, long n, long cols) {
    const contract_job *job = g->job;
    const long first = job->exchanged ? g->m : n, lanes = job->exchanged ? g->rows : cols;
    return cols % VL == 0 && first % job->segment + lanes <= job->segment && (!job->exchanged || g->rows % VL == 0);
}

// The squares of a transposed C, which tiles left as they are: turned, each in its place.
static void contract_turn(const contract_group *g, real *c, long cols) {
    const long ldc = g->job->ldc;
    vec square[VL];
    for (long j = 0; j < cols; j += VL)
        for (long i = 0; i < g->rows; i += VL) {
            real *at = c + j * ldc + i;
            for (int k = 0; k < VL; k++) square[k] = v_load(at + k * ldc);
            v_transpose(square);
            for (int k = 0; k < VL; k++) v_store(at + k * ldc, square[k]);
        }
}

// The tiles of a group in a panel, over some of k: the first time C is written, then added to.
static void contract_tiles(const contract_group *g, int first, int last, long blocks, long n, long cols, const real *a,
                           const real *d, Beside *beside) {
    real tile[PANEL * PANEL] __attribute__((aligned(VB)));
    const contract_job *job = g->job;
    const int reached = contract_reached(g, n, cols), turned = reached && job->exchanged;
    real *c = reached ? contract_at(job, g->m, n) : tile;
    const long ldc = reached ? job->ldc : PANEL, down = VL * (turned ? 1 : ldc), right = VL * (turned ? ldc : 1);
    if (!reached && !first) contract_by_hand(g, n, cols, tile, 1);
    shape_tiles(g->rows, contract_min(g->rows, VL));
    multiply_group(g->rows, contract_min(g->rows, VL), contract_up(cols, VL), a, d, blocks, c, ldc, down, right, first,
                   beside);
    if (turned && last) contract_turn(g, c, cols);
    if (!reached) contract_by_hand(g, n, cols, tile, 0);
}

// What a thread has at once of a family: some of k of some groups.
typedef struct {
    const contract_family *family;
    long k, depth, group, groups;  // from where and how much, from where and how many
    real *packed;                  // A of the groups
    vec odd;                       // NaN where a number was not finite
} contract_round;

static void contract_pack(contract_round *r) {
    for (long row = 0; row < r->depth; row += BLOCK_DEPTH)  // whole rows are what the memory reads well
        for (long i = 0; i < r->groups; i++) {
            const contract_job *job = r->family->jobs;
            while (!contract_has(job, r->group + i)) job++;
            const contract_group g = contract_group_of(job, r->group + i);
            const real *a = g.job->A + r->k * g.job->lda + g.m;
            contract_split(a, g.job->lda, row, r->depth, g.rows, 1, r->packed + i * contract_tall(r->depth), &r->odd);
        }
}

// A panel of D, `depth` of k. While tiles multiply by the panel before it, it is split, a line of a tile at a time, and
// the one after it fetched, without which tiles would wait for what is split.
typedef struct {
    Beside beside;
    contract_round *round;
    const real *from;
    real *to;
    long n, cols, ldd;    // its columns; numbers from row to row
    long whole, fetched;  // blocks that are split so; how far away the panel after it lies
    long apart;           // how far its columns on the right are from those on the left, once split
    const real *next;     // the block that comes next, and where it goes
    real *at;
    long block, line;     // how many came before it, and its lines that are split
    vec odd;
} contract_slab;

static void contract_lines(Beside *beside, long units) {
    contract_slab *p = (contract_slab *)beside;
    for (; units > 0; units--) {
        const real *from = p->next + p->line * p->ldd, *other = from + VL * p->ldd;
        split_line(p->at + p->line * VL, v_load(from), v_load(other), &p->odd);
        __builtin_prefetch(from + p->fetched, 0, 2), __builtin_prefetch(other + p->fetched, 0, 2);
        if (++p->line < VL) continue;
        p->line = 0, p->next += BLOCK_DEPTH * p->ldd, p->at += THIRDS;
        if (++p->block == p->whole) p->next = p->from + VL, p->at = p->to + p->apart;
    }
}

// How many groups have the panel from column n on, each as often as products do.
static long contract_met(const contract_round *r, long n) {
    const contract_family *f = r->family;
    long met = 0;
    for (long group = r->group; group < r->group + r->groups; group++)
        for (long i = 0; i < f->count; i++) met += contract_has(f->jobs + i, group) && contract_meets(f->jobs + i, n);
    return met;
}

static contract_slab contract_slab_at(contract_round *r, long n, long end, real *to) {
    const long ldd = r->family->ldd, fetched = n + PANEL < end ? PANEL : 0;
    const long cols = contract_met(r, n) ? contract_min(PANEL, end - n) : 0;
    const long whole = cols == PANEL ? r->depth / BLOCK_DEPTH : 0, apart = contract_tall(r->depth) / 2;
    const real *from = r->family->D + r->k * ldd + n;
    contract_slab p = {.round = r, .from = from, .to = to, .n = n, .cols = cols, .ldd = ldd, .whole = whole,
                       .fetched = fetched, .apart = apart, .next = from, .at = to, .odd = v_set1(0)};
    p.beside.more = contract_lines;
    p.beside.points = contract_met(r, n - PANEL) * points_of(PANEL, PANEL / VL, contract_up(r->depth, BLOCK_DEPTH));
    start_beside(&p.beside, whole * PANEL);
    return p;
}

// All of it that is not split yet; what was not begun, block by block.
static void contract_split_rest(contract_slab *p) {
    contract_round *r = p->round;
    const long whole = p->block + p->line ? p->whole : 0;
    if (whole) do_rest(&p->beside);
    for (long row = whole * BLOCK_DEPTH; row < r->depth; row += BLOCK_DEPTH)
        contract_split(p->from, p->ldd, row, r->depth, p->cols, 0, p->to, &r->odd);
    r->odd += p->odd;
}

static void contract_products(const contract_round *r, const contract_slab *p, Beside *beside) {
    const contract_family *f = r->family;
    const long blocks = contract_up(r->depth, BLOCK_DEPTH);
    const int first = r->k == 0, last = r->k + r->depth == f->K;
    for (long i = 0; i < r->groups; i++)
        for (const contract_job *job = f->jobs; job < f->jobs + f->count; job++)
            if (contract_has(job, r->group + i) && contract_meets(job, p->n)) {
                const contract_group g = contract_group_of(job, r->group + i);
                const real *a = r->packed + i * contract_tall(r->depth);
                contract_tiles(&g, first, last, blocks, p->n - job->from, p->cols, a, p->to, beside);
            }
}

// Whether the sums of products that share D are cut in halves, each with a C of its own: of two threads each then
// splits half of A, not all of it, but one C is added to the other.
static int contract_in_halves(const contract_family *f) { return f->K * 10 > f->N * THIRDS_HALVES; }
static long contract_half(long K) { return contract_up(contract_up(K, BLOCK_DEPTH), 2) * BLOCK_DEPTH; }

// Of a family the groups g0..g1 and the columns n0..n1. Returns NaN where it met a number that is not finite: the
// results are of no use then.
static real contract_thirds_part(const contract_family *f, long g0, long g1, long n0, long n1, real *scratch) {
    const long most = thirds_depth(f->K, f->groups), high = thirds_high(most);
    real *const panels[2] = {scratch, scratch + contract_tall(most)}, *packed = scratch + 2 * contract_tall(most);
    vec odd = v_set1(0);
    for (long k = 0; k < f->K; k += most)
        for (long g = g0; g < g1; g += high) {
            contract_round r = {f, k, contract_min(most, f->K - k), g, contract_min(high, g1 - g), packed, odd};
            contract_pack(&r);
            contract_slab now = contract_slab_at(&r, n0, n1, panels[0]), next;
            contract_split_rest(&now);
            for (long n = n0, place = 1; n < n1; n += PANEL, place = !place, now = next) {
                next = contract_slab_at(&r, n + PANEL, n1, panels[place]);
                contract_products(&r, &now, &next.beside);
                contract_split_rest(&next);
            }
            odd = r.odd;
        }
    release_tiles();
    return v_sum(odd);
}

#else
static int contract_in_thirds(const contract_job *job) { return (void)job, 0; }
static contract_job contract_thirds_plan(contract_job job, long rows) { return (void)rows, job; }
static long contract_thirds_scratch(const contract_family *f) { return (void)f, 0; }
static int contract_in_halves(const contract_family *f) { return (void)f, 0; }
static long contract_half(long K) { return K; }
static real contract_thirds_part(const contract_family *f, long g0, long g1, long n0, long n1, real *scratch) {
    return (void)f, (void)g0, (void)g1, (void)n0, (void)n1, (void)scratch, 0;
}
#endif
#endif
