// SPDX-License-Identifier: GPL-2.0-only
/*
 *	confined PROGRAM [ARGUMENT...]
 *
 * Executes PROGRAM under a seccomp filter that answers EPERM as Docker's default
 * profile does in a container without capabilities: to calls that load BPF, observe the
 * performance of other processes, make namespaces, mount, or reach the kernel's modules
 * and keys. clone3() gets ENOSYS.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DENY(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ ## name, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

int main(int argc, char **argv)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		DENY(bpf), DENY(perf_event_open), DENY(unshare), DENY(setns), DENY(mount),
		DENY(umount2), DENY(pivot_root), DENY(open_tree), DENY(move_mount), DENY(fsopen),
		DENY(init_module), DENY(finit_module), DENY(delete_module), DENY(keyctl),
		DENY(add_key), DENY(request_key), DENY(userfaultfd), DENY(kcmp),
		DENY(process_vm_readv), DENY(process_vm_writev), DENY(ptrace),
		DENY(io_uring_setup), DENY(open_by_handle_at), DENY(syslog),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	if (argc < 2) {
		fprintf(stderr, "usage: confined PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0)) {
		perror("confined");
		return 1;
	}
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 1;
}
