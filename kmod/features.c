// SPDX-License-Identifier: GPL-2.0-only
/*
 * A page that tells processes which features are on, so that the library pays a
 * load for asking, not a system call. All processes share it, so none may write.
 */
#include <linux/gfp.h>
#include <linux/mm.h>

#include "compat.h"
#include "fastsocket_abi.h"
#include "features.h"

static struct fsocket_features *fsocket_features;

int fsocket_features_mmap(struct vm_area_struct *vma)
{
	if (vma->vm_pgoff || vma->vm_end - vma->vm_start != PAGE_SIZE)
		return -EINVAL;
	if (vma->vm_flags & VM_WRITE)
		return -EPERM;
	/* mprotect() or a debugger's private copy must not make the mapping writable later. */
	fsocket_vm_flags_clear(vma, VM_MAYWRITE);
	return vm_insert_page(vma, vma->vm_start, virt_to_page(fsocket_features));
}

int fsocket_features_set_fast_epoll(bool on)
{
	WRITE_ONCE(fsocket_features->fast_epoll, on);
	return 0;
}

int fsocket_features_set_socket_pool(bool on)
{
	WRITE_ONCE(fsocket_features->socket_pool, on);
	return 0;
}

int fsocket_features_set_receive_flow_deliver(bool on)
{
	WRITE_ONCE(fsocket_features->receive_flow_deliver, on);
	return 0;
}

int fsocket_features_init(void)
{
	fsocket_features = (void *)get_zeroed_page(GFP_KERNEL);
	return fsocket_features ? 0 : -ENOMEM;
}

/* Nobody has the page mapped now: a mapping holds the file, and the file holds the module. */
void fsocket_features_exit(void)
{
	free_page((unsigned long)fsocket_features);
}
