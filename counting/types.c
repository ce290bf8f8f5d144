// SPDX-License-Identifier: GPL-2.0-only
#include "types.h"

#include <bpf/btf.h>
#include <err.h>
#include <search.h>
#include <stdio.h>
#include <string.h>

#define LINE 64
/* The kernels that are counted have some 500 per-CPU variables. */
#define VARIABLES 4096
#define DEPTH 16

static struct btf *btf;
static const struct btf_type *variables[VARIABLES];
static size_t n_variables;

static const char *name_of(const struct btf_type *type)
{
	return btf__name_by_offset(btf, type->name_off);
}

void types_read(const char *path)
{
	btf = btf__parse(path, NULL);
	if (!btf)
		errx(1, "%s: it has no types that can be read: the kernel needs CONFIG_DEBUG_INFO_BTF", path);
	/* libbpf would compare the names of all types for each lookup. */
	if (!hcreate(btf__type_cnt(btf)))
		err(1, "types");
	for (uint32_t i = 1; i < btf__type_cnt(btf); i++) {
		const struct btf_type *type = btf__type_by_id(btf, i);

		if (btf_is_struct(type) && type->name_off)
			hsearch((ENTRY){ (char *)name_of(type), (void *)type }, ENTER);
		else if (btf_is_var(type) && n_variables < VARIABLES)
			variables[n_variables++] = type;
	}
}

static const struct btf_type *find(const char *structure)
{
	ENTRY *found = hsearch((ENTRY){ (char *)structure, NULL }, FIND);

	return found ? found->data : NULL;
}

size_t types_size(const char *structure)
{
	const struct btf_type *type = find(structure);

	if (!type)
		errx(1, "the kernel has no struct %s: its memory cannot be read", structure);
	return type->size;
}

/* Drops const and volatile, and also other names of a type if it is told to. */
static const struct btf_type *plain(uint32_t id, bool typedefs)
{
	const struct btf_type *type = btf__type_by_id(btf, id);

	while (type && (btf_is_mod(type) || (typedefs && btf_is_typedef(type))))
		type = btf__type_by_id(btf, type->type);
	return type;
}

/* Looks for a member by its name, also in structures and unions that have none. */
static bool find_member(const struct btf_type *type, const char *name, size_t *offset)
{
	for (int i = 0; i < btf_vlen(type); i++) {
		const struct btf_member *member = btf_members(type) + i;
		size_t begin = btf_member_bit_offset(type, i) / 8;
		const char *own = btf__name_by_offset(btf, member->name_off);
		const struct btf_type *inner = plain(member->type, true);

		if (!strcmp(own, name)) {
			*offset += begin;
			return true;
		}
		if (!*own && btf_is_composite(inner) && find_member(inner, name, offset)) {
			*offset += begin;
			return true;
		}
	}
	return false;
}

bool types_find(const char *structure, const char *member, size_t *offset)
{
	const struct btf_type *type = find(structure);

	*offset = 0;
	return type && find_member(type, member, offset);
}

size_t types_offset(const char *structure, const char *member)
{
	size_t offset;

	if (!types_find(structure, member, &offset))
		errx(1, "the kernel has no struct %s with a %s: its memory cannot be read",
		     structure, member);
	return offset;
}

bool types_constant(const char *enumeration, const char *name, uint32_t *value)
{
	int id = btf__find_by_name_kind(btf, enumeration, BTF_KIND_ENUM);
	const struct btf_type *type = id > 0 ? btf__type_by_id(btf, id) : NULL;

	for (int i = 0; type && i < btf_vlen(type); i++)
		if (!strcmp(btf__name_by_offset(btf, btf_enum(type)[i].name_off), name)) {
			*value = btf_enum(type)[i].val;
			return true;
		}
	return false;
}

const char *types_of_per_cpu(const char *variable, size_t *offset)
{
	for (size_t i = 0; i < n_variables; i++) {
		const struct btf_type *type = variables[i];

		if (strcmp(name_of(type), variable))
			continue;
		type = plain(type->type, true);
		while (type && btf_is_array(type)) {
			int64_t size = btf__resolve_size(btf, btf_array(type)->type);

			if (size <= 0)
				return NULL;
			*offset %= size;
			type = plain(btf_array(type)->type, true);
		}
		return type && btf_is_struct(type) && type->name_off ? name_of(type) : NULL;
	}
	return NULL;
}

/* Returns the member that has the offset, which becomes the offset in it. */
static const struct btf_member *member_at(const struct btf_type *type, size_t *offset)
{
	for (int i = 0; i < btf_vlen(type); i++) {
		const struct btf_member *member = btf_members(type) + i;
		size_t begin = btf_member_bit_offset(type, i) / 8;
		int64_t size = btf__resolve_size(btf, member->type);

		if (size > 0 && *offset >= begin && *offset < begin + size) {
			*offset -= begin;
			return member;
		}
	}
	return NULL;
}

/* Appends the index in an array to the text, and goes on with the element. */
static const struct btf_type *element(const struct btf_type *type, size_t *offset, char *text,
				      size_t room)
{
	while (type && btf_is_array(type)) {
		uint32_t id = btf_array(type)->type;
		int64_t size = btf__resolve_size(btf, id);

		if (size <= 0)
			return NULL;
		snprintf(text + strlen(text), room - strlen(text), "[%zu]", *offset / size);
		*offset %= size;
		type = plain(id, false);
	}
	return type;
}

bool types_member(const char *structure, size_t offset, char *text, size_t room)
{
	const struct btf_type *type = find(structure);
	const struct btf_member *member;
	bool found = false;
	char owner[256];

	snprintf(owner, sizeof(owner), "%s", structure);
	for (int depth = 0; depth < DEPTH && type && btf_is_composite(type); depth++) {
		const char *name;

		member = member_at(type, &offset);
		if (!member)
			return found;
		name = btf__name_by_offset(btf, member->name_off);
		type = plain(member->type, false);
		if (!*name)
			continue;
		found = true;
		snprintf(text, room, "%s.%s", owner, name);
		type = element(type, &offset, text, room);
		/* Do not name the members of a lock, a list, or a counter: they explain nothing. */
		if (!type || !btf_is_composite(type) || type->size <= LINE)
			return true;
		if (type->name_off)
			snprintf(owner, sizeof(owner), "%s", name_of(type));
		else
			snprintf(owner, sizeof(owner), "%s", text);
	}
	return found;
}
