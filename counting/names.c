// SPDX-License-Identifier: GPL-2.0-only
/*
 * Prints what is at addresses of the running kernel. It runs in the guest as root:
 *
 *	names [KALLSYMS] < ADDRESSES
 *
 * For each address, a line of hexadecimal digits, it prints a row of CSV: the kind; the
 * object's name with the offset in it of the 64-byte line, or 0 if it begins within the
 * line; the member that has the address; the CPU of a per-CPU variable. Unknown fields
 * stay empty. KALLSYMS is a copy of /proc/kallsyms, which takes an emulated kernel
 * seconds to write.
 */
#include "memory.h"
#include "slabs.h"
#include "symbols.h"
#include "types.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE 64
#define CPUS 256
/* Behind the descriptions of pages are CPU entry areas. */
#define VMEMMAP_END 0xfffffe0000000000
/* For the per-CPU variables of modules (PERCPU_MODULE_RESERVE). */
#define MODULES_PER_CPU (8 << 10)
/* CONFIG_VMAP_STACK aligns stacks to their size, and marks their end. */
#define STACK_SIZE (16 << 10)
#define STACK_END_MAGIC 0x57AC6E9D

struct name {
	const char *kind;
	char what[512];
	char member[256];
	char cpu[16];
};

/* An array that has been allocated. */
struct array {
	const char *name;
	const char *element;
	uint64_t begin, size;
};

static struct array arrays[8];
static size_t n_arrays;
static uint64_t cpu_offsets[CPUS], per_cpu_begin, per_cpu_end, per_cpu_size;
static uint32_t n_cpus;
static uint64_t vmalloc_begin, vmemmap_begin;

/*
 * Variables that are no per-CPU variables, and their structures: BTF describes per-CPU
 * variables only.
 */
static const struct {
	const char *variable;
	const char *structure;
} structures[] = {
	{ "init_net", "net" }, { "tcp_hashinfo", "inet_hashinfo" }, { "init_task", "task_struct" },
	{ "rcu_state", "rcu_state" },
};

static uint64_t address_of(const char *name)
{
	uint64_t address;

	if (!symbols_address(name, &address))
		errx(1, "the kernel has no symbol %s: its memory cannot be read", name);
	return address;
}

static uint64_t variable(const char *name)
{
	uint64_t value;

	if (!memory_read(address_of(name), &value, sizeof(value)))
		errx(1, "%s of the kernel cannot be read", name);
	return value;
}

/* The kernels do not all have all of these tables. */
static void find_hash_tables(void)
{
	static const struct {
		const char *name, *table, *count, *element;
		unsigned int more; /* to be added to the count: 1 for a mask */
	} tables[] = {
		{ "tcp_hashinfo.ehash[]", "ehash", "ehash_mask", "inet_ehash_bucket", 1 },
		{ "tcp_hashinfo.bhash[]", "bhash", "bhash_size", "inet_bind_hashbucket", 0 },
		{ "tcp_hashinfo.bhash2[]", "bhash2", "bhash_size", "inet_bind_hashbucket", 0 },
		{ "tcp_hashinfo.lhash2[]", "lhash2", "lhash2_mask", "inet_listen_hashbucket", 1 },
		{ "tcp_hashinfo.ehash_locks[]", "ehash_locks", "ehash_locks_mask", "spinlock", 1 },
	};
	uint64_t info = address_of("tcp_hashinfo");
	size_t table, number;
	uint32_t count;

	for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
		struct array *array = &arrays[n_arrays];

		if (!types_find("inet_hashinfo", tables[i].table, &table) ||
		    !types_find("inet_hashinfo", tables[i].count, &number) ||
		    !memory_read(info + table, &array->begin, sizeof(array->begin)) ||
		    !memory_read(info + number, &count, sizeof(count)) || !array->begin)
			continue;
		array->name = tables[i].name;
		array->element = tables[i].element;
		array->size = types_size(array->element) * ((uint64_t)count + tables[i].more);
		n_arrays++;
	}
}

static void find_metrics(void)
{
	struct array *array = &arrays[n_arrays];

	*array = (struct array){ "tcp_metrics_hash[]", "tcpm_hash_bucket",
				 variable("tcp_metrics_hash"), 0 };
	array->size = types_size(array->element) << (uint32_t)variable("tcp_metrics_hash_log");
	n_arrays += array->begin != 0;
}

/* The size of a CPU's first area; the space from there to the next CPU's area has other uses. */
static uint64_t per_cpu_area(void)
{
	uint64_t chunk = variable("pcpu_first_chunk"), begin;
	uint32_t pages;

	if (!memory_read(chunk + types_offset("pcpu_chunk", "base_addr"), &begin, sizeof(begin)) ||
	    !memory_read(chunk + types_offset("pcpu_chunk", "nr_pages"), &pages, sizeof(pages)))
		errx(1, "pcpu_first_chunk of the kernel cannot be read");
	return begin + ((uint64_t)pages << 12) - variable("pcpu_base_addr");
}

static void find_cpus(void)
{
	n_cpus = variable("nr_cpu_ids");
	if (n_cpus > CPUS)
		n_cpus = CPUS;
	per_cpu_begin = address_of("__per_cpu_start");
	per_cpu_end = address_of("__per_cpu_end");
	per_cpu_size = per_cpu_area();
	if (!memory_read(address_of("__per_cpu_offset"), cpu_offsets, n_cpus * sizeof(*cpu_offsets)))
		errx(1, "__per_cpu_offset cannot be read");
}

/* Writes the name with the offset in it of the line that has the address. */
static void put(struct name *name, const char *kind, const char *what, uint64_t begin,
		uint64_t address)
{
	uint64_t line = address & ~(uint64_t)(LINE - 1);

	name->kind = kind;
	snprintf(name->what, sizeof(name->what), "%s+0x%llx", what,
		 line > begin ? (unsigned long long)(line - begin) : 0);
}

static void put_member(struct name *name, const char *structure, uint64_t offset)
{
	if (structure && !types_member(structure, offset, name->member, sizeof(name->member)))
		*name->member = 0;
}

static bool is_per_cpu(uint64_t address, struct name *name)
{
	for (uint32_t cpu = 0; cpu < n_cpus; cpu++) {
		uint64_t own = address - cpu_offsets[cpu], begin;
		const char *variable, *structure;
		size_t offset;

		if (own < per_cpu_begin || own - per_cpu_begin >= per_cpu_size)
			continue;
		snprintf(name->cpu, sizeof(name->cpu), "%u", cpu);
		variable = own < per_cpu_end + MODULES_PER_CPU ? symbols_per_cpu(own, &begin) : NULL;
		if (!variable || (own >= per_cpu_end && begin < per_cpu_end)) {
			name->kind = "per-CPU memory";
			return true;
		}
		put(name, "per-CPU variable", variable, begin, address - cpu_offsets[cpu]);
		offset = own - begin;
		structure = types_of_per_cpu(variable, &offset);
		put_member(name, structure, offset);
		return true;
	}
	return false;
}

static bool is_array(uint64_t address, struct name *name)
{
	for (size_t i = 0; i < n_arrays; i++) {
		const struct array *array = &arrays[i];

		if (address < array->begin || address - array->begin >= array->size)
			continue;
		name->kind = "array";
		snprintf(name->what, sizeof(name->what), "%s", array->name);
		put_member(name, array->element,
			   (address - array->begin) % types_size(array->element));
		return true;
	}
	return false;
}

/* The kernel's image and its modules, where variables have symbols. */
static bool is_variable(uint64_t address, struct name *name)
{
	uint64_t begin;
	const char *symbol;

	if (address >> 31 != 0x1ffffffff)
		return false;
	name->kind = "image";
	symbol = symbols_variable(address, &begin);
	if (!symbol)
		return true;
	put(name, "variable", symbol, begin, address);
	for (size_t i = 0; i < sizeof(structures) / sizeof(*structures); i++)
		if (!strcmp(structures[i].variable, symbol))
			put_member(name, structures[i].structure, address - begin);
	return true;
}

static bool is_object(uint64_t address, struct name *name)
{
	struct object object;

	if (!slabs_object(address, &object))
		return false;
	put(name, "slab", object.cache, address - object.offset, address);
	put_member(name, object.structure, object.offset);
	return true;
}

static bool is_description(uint64_t address, struct name *name)
{
	struct object object;

	if (address < vmemmap_begin || address >= VMEMMAP_END || !slabs_page(address, &object))
		return false;
	put(name, "page description", object.cache, address - object.offset, address);
	put_member(name, object.structure, object.offset);
	return true;
}

static bool is_vmalloc(uint64_t address, struct name *name)
{
	uint64_t end = address & ~(uint64_t)(STACK_SIZE - 1), mark;

	if (address < vmalloc_begin || address >= vmemmap_begin)
		return false;
	name->kind = "vmalloc";
	if (memory_read(end, &mark, sizeof(mark)) && mark == STACK_END_MAGIC)
		put(name, "stack", "task stack", end, address);
	return true;
}

static bool is_page(uint64_t address, struct name *name)
{
	if (!slabs_direct(address))
		return false;
	name->kind = "page";
	return true;
}

static void print_name(uint64_t address)
{
	static bool (*const kinds[])(uint64_t address, struct name *name) = {
		is_array, is_object, is_per_cpu, is_variable, is_page, is_description, is_vmalloc,
	};
	struct name name = { .kind = "unknown" };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (kinds[i](address, &name))
			break;
	printf("%llx,%s,%s,%s,%s\n", (unsigned long long)address, name.kind, name.what, name.member,
	       name.cpu);
}

int main(int argc, char **argv)
{
	char line[64], *end;

	if (argc > 2)
		errx(2, "usage: %s [KALLSYMS] < ADDRESSES", argv[0]);
	symbols_read(argc == 2 ? argv[1] : "/proc/kallsyms");
	types_read("/sys/kernel/btf/vmlinux");
	memory_open("/proc/kcore");
	vmalloc_begin = variable("vmalloc_base");
	vmemmap_begin = variable("vmemmap_base");
	slabs_find(variable("page_offset_base"), vmalloc_begin, vmemmap_begin,
		   address_of("slab_caches"));
	find_cpus();
	find_hash_tables();
	find_metrics();
	puts("address,kind,what,member,cpu");
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t address = strtoull(line, &end, 16);

		if (*line == '\n')
			continue;
		if (end == line || *end != '\n')
			errx(2, "%s: not an address: give hexadecimal digits", strtok(line, "\n"));
		print_name(address);
	}
	return 0;
}
