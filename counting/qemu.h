/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * QEMU's interface for plugins, version 1, as far as this plugin uses it. Debian has
 * it in no package, so that these declarations are written after QEMU's documentation.
 */
#ifndef COUNTING_QEMU_H
#define COUNTING_QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QEMU_EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;

typedef struct {
	const char *target_name;
	struct {
		int min;
		int cur;
	} version;
	bool system_emulation;
	struct {
		int smp_vcpus;
		int max_vcpus;
	} system;
} qemu_info_t;

enum qemu_plugin_cb_flags {
	QEMU_PLUGIN_CB_NO_REGS,
	QEMU_PLUGIN_CB_R_REGS,
	QEMU_PLUGIN_CB_RW_REGS,
};

enum qemu_plugin_mem_rw {
	QEMU_PLUGIN_MEM_R = 1,
	QEMU_PLUGIN_MEM_W,
	QEMU_PLUGIN_MEM_RW,
};

typedef void (*qemu_plugin_vcpu_udata_cb_t)(unsigned int vcpu, void *data);
typedef void (*qemu_plugin_vcpu_mem_cb_t)(unsigned int vcpu, qemu_plugin_meminfo_t info,
					  uint64_t address, void *data);
typedef void (*qemu_plugin_vcpu_tb_trans_cb_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);

/* QEMU looks for these two symbols in the plugin. */
extern QEMU_EXPORT int qemu_plugin_version;
QEMU_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
				    int argc, char **argv);

/* QEMU provides the functions below. */
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, qemu_plugin_vcpu_tb_trans_cb_t cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, qemu_plugin_vcpu_udata_cb_t cb,
					  enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, qemu_plugin_vcpu_mem_cb_t cb,
				      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw,
				      void *data);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

unsigned int qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t info);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t info, uint64_t address);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *hwaddr);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *hwaddr);

/*
 * These two functions are exported, but are not part of the interface for plugins. QEMU
 * 7.2 keeps the callback for accesses of its helper functions in a pointer of each CPU, and
 * does not clear it on some ways out of a block. It would then report later accesses, such
 * as those of an interrupt's delivery, to the callback of another instruction, or to one
 * that a switch has freed.
 */
struct CPUState;
__attribute__((weak)) struct CPUState *qemu_get_cpu(int index);
__attribute__((weak)) void qemu_plugin_disable_mem_helpers(struct CPUState *cpu);

/* Also exported only: queue work for a vCPU's thread, and work for when all stand still. */
union run_on_cpu_data {
	uint64_t number;
	void *pointer;
};

typedef void (*run_on_cpu_func)(struct CPUState *cpu, union run_on_cpu_data data);
__attribute__((weak)) void async_run_on_cpu(struct CPUState *cpu, run_on_cpu_func func,
					    union run_on_cpu_data data);
__attribute__((weak)) void async_safe_run_on_cpu(struct CPUState *cpu, run_on_cpu_func func,
						 union run_on_cpu_data data);
/* Throws all translations away: at once, when called by work of the latter kind. */
__attribute__((weak)) void tb_flush(struct CPUState *cpu);

#endif
