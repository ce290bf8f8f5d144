// SPDX-License-Identifier: GPL-2.0-only
#include "lines.h"
#include "table.h"

struct line {
	uint64_t key;
	uint64_t state;
};

static struct table lines;

bool lines_make(void)
{
	return table_make(&lines, sizeof(struct line), 23);
}

void lines_clear(void)
{
	table_clear(&lines);
}

uint64_t lines_lost(void)
{
	return lines.lost;
}

uint64_t *lines_state(uint64_t number)
{
	bool new;
	/* A key of 0 would be a free entry. No kernel data has line 0. */
	struct line *line = table_find(&lines, number | 1ull << 63, &new);

	return line ? &line->state : NULL;
}

static enum access judge(uint64_t state, uint64_t me, bool write, uint64_t *after)
{
	uint64_t others = state & ~me & ~LINE_MODIFIED;
	bool modified = state & LINE_MODIFIED;

	if (write) {
		*after = me | LINE_MODIFIED;
		if (!others)
			return ACCESS_HIT;
		return modified ? ACCESS_DIRTY : ACCESS_INVALIDATE;
	}
	if (state & me) {
		*after = state;
		return ACCESS_HIT;
	}
	*after = (state & ~LINE_MODIFIED) | me;
	if (!others)
		return ACCESS_HIT;
	return modified ? ACCESS_DIRTY : ACCESS_CLEAN;
}

enum access lines_access(uint64_t *state, unsigned int vcpu, bool write)
{
	uint64_t before = __atomic_load_n(state, __ATOMIC_RELAXED), after;
	enum access kind;

	do {
		kind = judge(before, 1ull << vcpu, write, &after);
		if (after == before)
			break;
	} while (!__atomic_compare_exchange_n(state, &before, after, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return kind;
}
