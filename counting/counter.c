// SPDX-License-Identifier: GPL-2.0-only
#include "counter.h"
#include "context.h"
#include "events.h"
#include "lines.h"

#include <sched.h>
#include <stdio.h>
#include <time.h>

/* The upper byte of a kernel's address is all ones, and has room for a length. */
#define LENGTH_SHIFT 56
#define UPPER_BYTE (0xffull << LENGTH_SHIFT)

struct vcpu {
	uint64_t instructions[2]; /* outside the kernel, and in it */
	int64_t budget;
	struct frames frames;
	struct CPUState *cpu;
} __attribute__((aligned(128)));

static struct vcpu vcpus[LINES_MAX_VCPUS];
static unsigned int n_vcpus;
static struct settings now;
static struct timespec began, ended;

static bool is_kernel(uint64_t address)
{
	return address >> 63;
}

bool counter_make(unsigned int n)
{
	n_vcpus = n;
	for (unsigned int i = 0; i < n; i++)
		if (!frames_make(&vcpus[i].frames))
			return false;
	return lines_make() && context_make() && events_make(n);
}

void counter_start(const struct settings *settings)
{
	now = *settings;
	lines_clear();
	context_clear();
	events_clear();
	for (unsigned int i = 0; i < n_vcpus; i++) {
		frames_clear(&vcpus[i].frames);
		vcpus[i].instructions[0] = vcpus[i].instructions[1] = 0;
		vcpus[i].budget = now.quantum;
		vcpus[i].cpu = qemu_get_cpu(i);
	}
	clock_gettime(CLOCK_MONOTONIC, &began);
	ended.tv_sec = 0;
}

void counter_stop(void)
{
	for (unsigned int i = 0; i < n_vcpus; i++)
		if (vcpus[i].cpu)
			qemu_plugin_disable_mem_helpers(vcpus[i].cpu);
	clock_gettime(CLOCK_MONOTONIC, &ended);
}

void counter_zero(void)
{
	events_zero();
	for (unsigned int i = 0; i < n_vcpus; i++)
		for (int kernel = 0; kernel < 2; kernel++)
			__atomic_store_n(&vcpus[i].instructions[kernel], 0, __ATOMIC_RELAXED);
	clock_gettime(CLOCK_MONOTONIC, &began);
}

static void touch(unsigned int index, qemu_plugin_meminfo_t info, uint64_t address,
		  uint64_t line, uint64_t instruction)
{
	bool write = qemu_plugin_mem_is_store(info);
	uint64_t *state = lines_state(line);
	const struct qemu_plugin_hwaddr *where;
	enum access kind;

	if (!state || lines_has(__atomic_load_n(state, __ATOMIC_RELAXED), index, write))
		return;
	/* The local APIC and virtio's notify registers have one address for all vCPUs. */
	where = qemu_plugin_get_hwaddr(info, address);
	if (where && qemu_plugin_hwaddr_is_io(where))
		return;
	kind = lines_access(state, index, write);
	if (kind != ACCESS_HIT)
		events_count(kind, is_kernel(instruction) ? vcpus[index].frames.context : 0,
			     instruction, line, address >> LINE_SHIFT == line ? address & 63 : 0);
}

static void access_memory(unsigned int index, qemu_plugin_meminfo_t info, uint64_t address,
			  uint64_t instruction)
{
	uint64_t last = address + (1 << qemu_plugin_mem_size_shift(info)) - 1;
	uint64_t line = address >> LINE_SHIFT;

	if (is_kernel(address)) {
		touch(index, info, address, line, instruction);
		if (last >> LINE_SHIFT != line)
			touch(index, info, address, line + 1, instruction);
	} else if (now.user) {
		/*
		 * Use physical addresses, since processes have the same addresses for
		 * different memory.
		 */
		struct qemu_plugin_hwaddr *where = qemu_plugin_get_hwaddr(info, address);

		if (where)
			touch(index, info, address,
			      qemu_plugin_hwaddr_phys_addr(where) >> LINE_SHIFT, instruction);
	}
}

static void on_access(unsigned int index, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
	access_memory(index, info, address, (uint64_t)data);
}

static void on_call(unsigned int index, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
	uint64_t instruction = (uint64_t)data | UPPER_BYTE;

	access_memory(index, info, address, instruction);
	/* A call through a pointer also loads, and only its store is the return address. */
	if (qemu_plugin_mem_is_store(info))
		frames_call(&vcpus[index].frames, address,
			    instruction + ((uint64_t)data >> LENGTH_SHIFT));
	qemu_plugin_disable_mem_helpers(vcpus[index].cpu);
}

static void on_return(unsigned int index, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
	access_memory(index, info, address, (uint64_t)data);
	frames_return(&vcpus[index].frames, address);
	qemu_plugin_disable_mem_helpers(vcpus[index].cpu);
}

static void on_block(unsigned int index, void *data)
{
	struct vcpu *vcpu = &vcpus[index];
	struct block *block = data;

	vcpu->instructions[is_kernel(block->address)] += block->instructions;
	block->executed[index]++;
	qemu_plugin_disable_mem_helpers(vcpu->cpu);
	if (!now.quantum)
		return;
	vcpu->budget -= block->instructions;
	if (vcpu->budget <= 0) {
		vcpu->budget = now.quantum;
		sched_yield();
	}
}

enum flow { FLOW_ON, FLOW_CALL, FLOW_RETURN };

static enum flow flow_of(const uint8_t *code, size_t length)
{
	/* Skip prefixes of size, segment and repetition, and REX. */
	while (length > 1 && (*code == 0x66 || *code == 0x67 || *code == 0x2e || *code == 0x3e ||
			      *code == 0xf2 || *code == 0xf3 || (*code & 0xf0) == 0x40)) {
		code++;
		length--;
	}
	if (*code == 0xe8 || (*code == 0xff && length > 1 && (code[1] >> 3 & 7) == 2))
		return FLOW_CALL;
	return *code == 0xc3 || *code == 0xc2 ? FLOW_RETURN : FLOW_ON;
}

static void instrument_kernel(struct qemu_plugin_insn *insn)
{
	uint64_t address = qemu_plugin_insn_vaddr(insn);
	uint64_t length = qemu_plugin_insn_size(insn);
	qemu_plugin_vcpu_mem_cb_t cb = on_access;

	switch (flow_of(qemu_plugin_insn_data(insn), length)) {
	case FLOW_CALL:
		cb = on_call;
		address = (address & ~UPPER_BYTE) | length << LENGTH_SHIFT;
		break;
	case FLOW_RETURN:
		cb = on_return;
		break;
	case FLOW_ON:
		break;
	}
	qemu_plugin_register_vcpu_mem_cb(insn, cb, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW,
					 (void *)address);
}

void counter_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint64_t address = qemu_plugin_tb_vaddr(tb);
	size_t n = qemu_plugin_tb_n_insns(tb);
	struct block *block = events_block(address, n);

	(void)id;
	if (block)
		qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		if (is_kernel(address))
			instrument_kernel(insn);
		else if (now.user)
			qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS,
							 QEMU_PLUGIN_MEM_RW,
							 (void *)qemu_plugin_insn_vaddr(insn));
	}
}

static double seconds(void)
{
	struct timespec end = ended;

	if (!end.tv_sec)
		clock_gettime(CLOCK_MONOTONIC, &end);
	return end.tv_sec - began.tv_sec + (end.tv_nsec - began.tv_nsec) / 1e9;
}

bool counter_dump(const char *path)
{
	FILE *file = fopen(path, "w");
	bool failed;

	if (!file)
		return false;
	fprintf(file, "counting 2\nquantum %llu\nuser_addresses %d\nvcpus %u\nseconds %.3f\n",
		(unsigned long long)now.quantum, now.user, n_vcpus, seconds());
	fprintf(file, "lost %llu\n",
		(unsigned long long)(lines_lost() + context_lost() + events_lost()));
	for (unsigned int i = 0; i < n_vcpus; i++)
		fprintf(file, "vcpu %u %llu %llu\n", i,
			(unsigned long long)vcpus[i].instructions[1],
			(unsigned long long)vcpus[i].instructions[0]);
	context_dump(file);
	events_dump(file);
	fprintf(file, "end\n");
	failed = ferror(file);
	return !fclose(file) && !failed;
}
