#include <linux/module.h>
#define INCLUDE_VERMAGIC
#include <linux/build-salt.h>
#include <linux/elfnote-lto.h>
#include <linux/export-internal.h>
#include <linux/vermagic.h>
#include <linux/compiler.h>

BUILD_SALT;
BUILD_LTO_INFO;

MODULE_INFO(vermagic, VERMAGIC_STRING);
MODULE_INFO(name, KBUILD_MODNAME);

__visible struct module __this_module
__section(".gnu.linkonce.this_module") = {
	.name = KBUILD_MODNAME,
	.init = init_module,
#ifdef CONFIG_MODULE_UNLOAD
	.exit = cleanup_module,
#endif
	.arch = MODULE_ARCH_INIT,
};

#ifdef CONFIG_RETPOLINE
MODULE_INFO(retpoline, "Y");
#endif


static const struct modversion_info ____versions[]
__used __section("__versions") = {
	{ 0x63f07b2f, "__sock_create" },
	{ 0x47978cc, "misc_deregister" },
	{ 0x13c49cc2, "_copy_from_user" },
	{ 0x8d522714, "__rcu_read_lock" },
	{ 0xe3d857ea, "__cpu_active_mask" },
	{ 0xc5b6f236, "queue_work_on" },
	{ 0xde293f9e, "add_wait_queue_exclusive" },
	{ 0x47bed70f, "__inet_inherit_port" },
	{ 0x37a0cba, "kfree" },
	{ 0x4afb2238, "add_wait_queue" },
	{ 0xe5ff1198, "sock_from_file" },
	{ 0xbb709d16, "__module_get" },
	{ 0xb19a5453, "__per_cpu_offset" },
	{ 0xba8fbd64, "_raw_spin_lock" },
	{ 0xcbd4898c, "fortify_panic" },
	{ 0xbdfb6dbb, "__fentry__" },
	{ 0x59c7a6b2, "register_pernet_subsys" },
	{ 0x9c9c12ad, "inet_put_port" },
	{ 0x65487097, "__x86_indirect_thunk_rax" },
	{ 0x92997ed8, "_printk" },
	{ 0x1d24c881, "___ratelimit" },
	{ 0x8ddd8aad, "schedule_timeout" },
	{ 0x4d06a092, "param_get_uint" },
	{ 0xa19b956, "__stack_chk_fail" },
	{ 0x296695f, "refcount_warn_saturate" },
	{ 0xe46021ca, "_raw_spin_unlock_bh" },
	{ 0xa916b694, "strnlen" },
	{ 0x58be560a, "iterate_fd" },
	{ 0xa59b97f5, "module_put" },
	{ 0x29d02e2, "reuseport_add_sock" },
	{ 0xb6fde909, "close_fd" },
	{ 0x68f31cbd, "__list_add_valid" },
	{ 0xa1194a8a, "fput" },
	{ 0xbaa383b0, "inet_accept" },
	{ 0xfe37522d, "__cpuhp_setup_state" },
	{ 0x1c12c32, "cpu_bit_bitmap" },
	{ 0x2469810f, "__rcu_read_unlock" },
	{ 0xafaa6031, "_find_next_and_bit" },
	{ 0x505f95b0, "noop_llseek" },
	{ 0x65feaec3, "sk_free" },
	{ 0x4dfa8d4b, "mutex_lock" },
	{ 0xaffab678, "kmem_cache_free" },
	{ 0x726e1a41, "set_cpus_allowed_ptr" },
	{ 0x53a1e8d9, "_find_next_bit" },
	{ 0x645c2937, "lock_sock_nested" },
	{ 0xe1537255, "__list_del_entry_valid" },
	{ 0x3c3fce39, "__local_bh_enable_ip" },
	{ 0x68fb37ae, "current_task" },
	{ 0xf44ea91, "unregister_pernet_subsys" },
	{ 0x9e683f75, "__cpu_possible_mask" },
	{ 0x844c8938, "misc_register" },
	{ 0x5b8239ca, "__x86_return_thunk" },
	{ 0x17de3d5, "nr_cpu_ids" },
	{ 0xaad8c7d6, "default_wake_function" },
	{ 0xd9a5ea54, "__init_waitqueue_head" },
	{ 0x6bafcb35, "security_sk_clone" },
	{ 0xc9ec4e21, "free_percpu" },
	{ 0x4ca57cc3, "inet_csk_listen_start" },
	{ 0xdd64e639, "strscpy" },
	{ 0x7a2af7b4, "cpu_number" },
	{ 0x4629334c, "__preempt_count" },
	{ 0x71b03774, "param_set_uint_minmax" },
	{ 0xbaf22757, "kvfree_call_rcu" },
	{ 0x3213f038, "mutex_unlock" },
	{ 0x949f7342, "__alloc_percpu" },
	{ 0x66cca4f9, "__x86_indirect_thunk_rcx" },
	{ 0x66b4cc41, "kmemdup" },
	{ 0xfcc2748f, "remove_proc_entry" },
	{ 0x3c12dfe, "cancel_work_sync" },
	{ 0xf0949581, "seq_printf" },
	{ 0xca212573, "proc_create_net_single" },
	{ 0xc3690fc, "_raw_spin_lock_bh" },
	{ 0xfe9fb915, "sock_release" },
	{ 0xfcca5424, "register_kprobe" },
	{ 0xc07351b3, "__SCT__cond_resched" },
	{ 0x88c24c82, "inet_csk_reqsk_queue_add" },
	{ 0x5caf31dc, "seq_puts" },
	{ 0x37110088, "remove_wait_queue" },
	{ 0x63026490, "unregister_kprobe" },
	{ 0x362f9a8, "__x86_indirect_thunk_r12" },
	{ 0x606e9d01, "kmalloc_trace" },
	{ 0x7d4589, "tcp_poll" },
	{ 0x1bb41761, "reuseport_detach_sock" },
	{ 0xb5b54b34, "_raw_spin_unlock" },
	{ 0xf2c45d92, "sockfd_lookup" },
	{ 0x6cb3c332, "__cpuhp_remove_state" },
	{ 0xfb464030, "sock_setsockopt" },
	{ 0xeb233a45, "__kmalloc" },
	{ 0x7a7caba8, "kmalloc_caches" },
	{ 0xadcc25da, "release_sock" },
	{ 0x2d3385d3, "system_wq" },
	{ 0x9060323f, "module_layout" },
};

MODULE_INFO(depends, "");


MODULE_INFO(srcversion, "AE7D32CD689E0DEE9D91892");
