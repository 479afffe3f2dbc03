"""Frame: the part of a generated source that runs its passes over rows, columns and time."""

from __future__ import annotations

TOTALS = """
static inline real total_sum(const Args *a, long number, long row, long parts) {
    real total = 0;
    for (long k = 0; k < parts; k++) total = add_of(total, a->reductions[(number * a->parts + k) * a->rows + row]);
    return total;
}
static inline real total_max(const Args *a, long number, long row, long parts) {
    real total = -INFINITY;
    for (long k = 0; k < parts; k++) total = max_of(total, a->reductions[(number * a->parts + k) * a->rows + row]);
    return total;
}
static inline real total_min(const Args *a, long number, long row, long parts) {
    real total = INFINITY;
    for (long k = 0; k < parts; k++) total = least_of(total, a->reductions[(number * a->parts + k) * a->rows + row]);
    return total;
}
"""

SUMS = """
// Sums over rows and steps are kept in two stages, so that few numbers are ever added to a large one.
static void flush(const Args *a, long thread) {
    real *fine = a->sums + 2 * thread * SUMS, *coarse = fine + SUMS;
    for (long j = 0; j < SUMS; j++) coarse[j] += fine[j], fine[j] = 0;
}
"""


def frame(counts: dict[str, int], sums: int) -> str:
    """The functions that run all stages, given how many passes each has and the columns that are summed."""
    parts = [f"enum {{ SUMS = {sums} }};" + (SUMS if sums else "")]
    parts += [_flat(stage, counts[stage], sums) for stage in ("before", "after") if counts[stage]]
    early = _calls("before", counts["before"], "")
    parts += [_timed("forward", counts["forward"], 0, early), _timed("backward", counts["backward"], sums, "")]
    return "\n".join([*parts, _main(counts, sums)])


def _calls(stage: str, count: int, wait: str) -> str:
    return " ".join(f"{stage}_{place}(a, t, r, keep); {wait}".rstrip() for place in range(count))


def _flat(stage: str, count: int, sums: int) -> str:
    flush = " flush(a, me);" if sums and stage == "after" else ""
    return f"""// {stage.capitalize()} the time loop: all T * B rows, a chunk at a time.
static void {stage}(const Args *a, long me, long team, const int keep) {{
    const long all = a->T * a->B, t = 0, last = all * (me + 1) / team;
    for (long b = all * me / team; b < last; b += CHUNK) {{
        const Range r = {{b, min_of(b + CHUNK, last), 0, 1, me * CHUNK - b, me}};
        {_calls(stage, count, "")}{flush}
    }}
}}
"""


def _timed(stage: str, count: int, sums: int, early: str) -> str:
    forward = stage == "forward"
    loop = "for (long t = 0; t < a->T; t++)" if forward else "for (long t = a->T - 1; t >= 0; t--)"
    flush = " if ((t & 31) == 0) flush(a, me);" if sums else ""
    return f"""// Rows split over the threads, which never wait; or columns, with a barrier after every pass.
static void {stage}(const Args *a, long me, long team, const int keep) {{
    if (a->columns) {{
        const Range r = {{0, a->B, me, team, 0, me}};
        {loop} {{ {_calls(stage, count, "barrier(a->barrier, team);")}{flush} }}
    }} else {{
        const Range r = {{a->B * me / team, a->B * (me + 1) / team, 0, 1, 0, me}};
        {loop} {{ {early}{_calls(stage, count, "")}{flush} }}
    }}
}}
"""


def _main(counts: dict[str, int], sums: int) -> str:
    before = "if (a->columns) { before(a, me, team, {0}); barrier(a->barrier, team); } " if counts["before"] else ""
    after = " barrier(a->barrier, team); after(a, me, team, 1);" if counts["after"] else ""
    return f"""enum {{ PACK, INFER, TRAIN, BACKWARD }};

void run(const Args *a) {{
    const int team = a->threads ? a->threads() : 1, me = a->thread ? a->thread() : 0;
    if (a->job == PACK)
        for (long k = 0; k < a->packs; k++) core.pack(a->pack + k, me, team);
    if (a->job == INFER) {{ {before.replace("{0}", "0")}forward(a, me, team, 0); }}
    if (a->job == TRAIN) {{ {before.replace("{0}", "1")}forward(a, me, team, 1); }}
    if (a->job == BACKWARD) {{
        backward(a, me, team, 1);{after}
        barrier(a->barrier, team);
        for (long k = 0; k < a->blocks; k++) {{
            const Block *q = a->block + k;
            const long depth = a->T * a->B, used = core.contract_scratch(depth, q->rows, q->columns);
            real *scratch = a->contract + me * (a->contract_size - used);  // the function adds me * used
            core.contract(q->a, q->lda, q->d, q->ldd, q->c, q->columns, depth, q->rows, q->columns, scratch, me, team);
        }}
    }}
}}
"""
