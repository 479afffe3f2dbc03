// Families of the products of contract.h in thirds, which share what is split; and who of a team does what of them.
#ifndef CELLWRIGHT_CONTRACT_FAMILY_H
#define CELLWRIGHT_CONTRACT_FAMILY_H

#include "contract_plain.h"

#define PANEL 32         // rows of a group and columns of a panel: two tiles by two
#define CONTRACT_JOBS 8  // most products of a family

// A family: products in thirds that read columns of the same D. Those of the same A have its groups of 32 rows in
// common, others have theirs below.
typedef struct {
    contract_job jobs[CONTRACT_JOBS];
    long count, groups;
    const real *D;  // from the first column that one of them reads
    long ldd, K, N;
} contract_family;

// Whether a product has this group, and the panel of its family's columns that begins with column n.
static int contract_has(const contract_job *job, long group) {
    return job->first <= group && group < job->first + contract_up(job->M, PANEL);
}
static int contract_meets(const contract_job *job, long n) { return job->from <= n && n < job->from + job->N; }

// Bytes from one place to another, which may lie anywhere.
static long contract_apart_by(const real *from, const real *to) { return (long)((intptr_t)to - (intptr_t)from); }

// Groups by columns of a family that products have.
static long contract_shared(const contract_family *f) {
    long work = 0;
    for (long i = 0; i < f->count; i++) work += contract_up(f->jobs[i].M, PANEL) * f->jobs[i].N;
    return work;
}

static void contract_join(contract_family *f, const contract_job *job) {
    const long apart = f->count ? contract_apart_by(f->D, job->D) / (long)sizeof(real) : 0;
    const long first = contract_min(0, apart);
    contract_job *own = f->jobs + f->count++;
    f->N = contract_max(f->N, apart + job->N) - first;
    f->D = own > f->jobs ? f->D + first : job->D;
    f->ldd = job->ldd, f->K = job->K;
    *own = *job, own->first = f->groups;
    for (const contract_job *other = f->jobs; other < own; other++)
        if (other->A == job->A && other->lda == job->lda && other->M == job->M) own->first = other->first;
    f->groups = contract_max(f->groups, own->first + contract_up(job->M, PANEL));
}

// Whether a product shares D with a family: it reads the same columns, or others of the same matrix, in whole panels,
// and most groups of all have most panels.
static int contract_joins(const contract_family *f, const contract_job *job) {
    const long apart = contract_apart_by(f->D, job->D) / (long)sizeof(real);
    contract_family both = *f;
    if (!f->count || (f->ldd == job->ldd && !apart && f->N == job->N)) return 1;
    if (f->ldd != job->ldd || apart <= -f->ldd || apart >= f->ldd || (f->N | apart | job->N) % PANEL) return 0;
    contract_join(&both, job);
    return both.N <= f->ldd && 3 * contract_shared(&both) >= 2 * both.groups * both.N;
}

// The first of the products that no family has, and those that share D with it; false if none is left.
static int contract_family_of(const contract_job *jobs, long count, char *taken, contract_family *f) {
    *f = (contract_family){.count = 0};
    for (long i = 0; i < count; i++)
        if (!taken[i] && f->count < CONTRACT_JOBS && contract_joins(f, jobs + i))
            contract_join(f, jobs + i), taken[i] = 1;
    for (long i = 0; i < f->count; i++) f->jobs[i].from = f->jobs[i].D - f->D;
    return f->count > 0;
}

// Products of a group of rows, or of a panel of columns, with all that they meet.
static long contract_work(const contract_family *f, int by_rows, long unit) {
    long work = 0;
    for (const contract_job *job = f->jobs; job < f->jobs + f->count; job++)
        if (by_rows) work += contract_has(job, unit) ? job->N * PANEL : 0;
        else work += contract_meets(job, unit * PANEL) ? contract_up(job->M, PANEL) * PANEL * PANEL : 0;
    return work;
}

// The group or panel with which a thread begins: all have about as many products.
static long contract_cut(const contract_family *f, int by_rows, long units, int me, int team) {
    long all = 0, before = 0, unit = 0;
    for (long i = 0; i < units; i++) all += contract_work(f, by_rows, i);
    while (unit < units && before * team < all * me) before += contract_work(f, by_rows, unit++);
    return unit;
}

#endif
