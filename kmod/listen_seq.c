// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/net/fastsocket_listeners, whose columns are described in listen_seq.h, and
 * getsockopt(TCP_INFO) of a listening socket.
 */
#include <linux/pid.h>
#include <linux/proc_fs.h>
#include <linux/seq_file_net.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "listen_seq.h"
#include "listener.h"
#include "ops.h"

/*
 * Any user may read this file as often as they like, so no other task waits for the
 * reader: listeners, their places, and sockets that have listened are freed a grace
 * period after the last reader could find them.
 */
static void *fsocket_listen_seq_start(struct seq_file *seq, loff_t *pos)
	__acquires(RCU)
{
	rcu_read_lock();
	return seq_list_start_head_rcu(&fsocket_listeners, *pos);
}

static void *fsocket_listen_seq_next(struct seq_file *seq, void *v, loff_t *pos)
{
	return seq_list_next_rcu(v, &fsocket_listeners, pos);
}

static void fsocket_listen_seq_stop(struct seq_file *seq, void *v)
	__releases(RCU)
{
	rcu_read_unlock();
}

/*
 * Prints a row for @local, or if that is NULL the shared listener of @l, whose socket is
 * @shared, and @worker.
 */
static void fsocket_seq_listener(struct seq_file *seq, const struct fsocket_listener *l,
				 const struct sock *shared, const struct fsocket_local *local,
				 struct pid *worker)
{
	const struct socket *sock = local ? fsocket_local_sock(local) : NULL;
	/* The socket has none once it is released. */
	const struct sock *sk = sock ? READ_ONCE(sock->sk) : local ? NULL : shared;
	const struct fsocket_local *host = local ? READ_ONCE(local->host) : NULL;
	bool attached = local ? READ_ONCE(local->attached) :
				inet_sk_state_load(shared) == TCP_LISTEN;
	pid_t nr = 0;

	/*
	 * A worker that has ended is shown as 0, since its number may belong to another
	 * task now.
	 */
	if (worker && pid_task(worker, PIDTYPE_PID))
		nr = pid_nr_ns(worker, proc_pid_ns(file_inode(seq->file)->i_sb));

	seq_printf(seq, "%lu %u ", l->ino,
		   READ_ONCE(inet_sk(shared)->inet_num));
#if IS_ENABLED(CONFIG_IPV6)
	if (shared->sk_family == AF_INET6)
		seq_printf(seq, "6 %pI6c", &shared->sk_v6_rcv_saddr);
	else
#endif
		seq_printf(seq, "4 %pI4", &shared->sk_rcv_saddr);
	seq_printf(seq, " %d %d %d %u %u %d\n", local ? local->cpu : -1, attached, nr,
		   sk ? READ_ONCE(sk->sk_ack_backlog) : 0,
		   READ_ONCE((sk ?: shared)->sk_max_ack_backlog), host ? host->cpu : -1);
}

static int fsocket_listen_seq_show(struct seq_file *seq, void *v)
{
	struct fsocket_listener *l = list_entry(v, struct fsocket_listener, in_all);
	const struct sock *shared;
	struct fsocket_claim *claim;
	struct fsocket_local *local;
	int cpu;

	if (v == &fsocket_listeners) {
		seq_puts(seq, "inode port family address cpu attached worker queued limit host\n");
		return 0;
	}
	shared = READ_ONCE(l->sock->sk);
	if (!shared || !net_eq(sock_net(shared), seq_file_net(seq)))
		return 0;

	fsocket_seq_listener(seq, l, shared, NULL, NULL);
	spin_lock(&l->claims_lock);
	list_for_each_entry(claim, &l->claims, in_listener)
		fsocket_seq_listener(seq, l, shared, READ_ONCE(claim->local), claim->pid);
	spin_unlock(&l->claims_lock);
	for_each_possible_cpu(cpu) {
		local = fsocket_local_at(l, cpu);
		if (local && fsocket_local_sock(local) && !READ_ONCE(local->claims))
			fsocket_seq_listener(seq, l, shared, local, NULL);
	}
	return 0;
}

const struct seq_operations fsocket_listen_seq_ops = {
	.start = fsocket_listen_seq_start,
	.next = fsocket_listen_seq_next,
	.stop = fsocket_listen_seq_stop,
	.show = fsocket_listen_seq_show,
};

/* Sums the lengths and the limits of all accept queues of @l. */
static void fsocket_info_sum(struct fsocket_listener *l, u32 *queued, u32 *limit)
{
	const struct socket *sock;
	int cpu;

	*queued = READ_ONCE(l->sock->sk->sk_ack_backlog);
	*limit = READ_ONCE(l->sock->sk->sk_max_ack_backlog);
	mutex_lock(&l->lock);
	for_each_possible_cpu(cpu) {
		sock = !l->ended && l->locals[cpu] ? l->locals[cpu]->sock : NULL;
		if (!sock)
			continue;
		*queued += READ_ONCE(sock->sk->sk_ack_backlog);
		if (l->locals[cpu]->attached)
			*limit += READ_ONCE(sock->sk->sk_max_ack_backlog);
	}
	mutex_unlock(&l->lock);
}

/*
 * Writes the sums of all accept queues into a TCP_INFO that the kernel has filled in:
 * tcpi_unacked is the length, tcpi_sacked the limit.
 */
static int fsocket_info_patch(struct fsocket_listener *l, char __user *optval,
			      int __user *optlen)
{
	u32 queued, limit;
	int len;

	if (get_user(len, optlen))
		return -EFAULT;
	fsocket_info_sum(l, &queued, &limit);
	if (len >= offsetofend(struct tcp_info, tcpi_unacked) &&
	    copy_to_user(optval + offsetof(struct tcp_info, tcpi_unacked), &queued,
			 sizeof(queued)))
		return -EFAULT;
	if (len >= offsetofend(struct tcp_info, tcpi_sacked) &&
	    copy_to_user(optval + offsetof(struct tcp_info, tcpi_sacked), &limit,
			 sizeof(limit)))
		return -EFAULT;
	return 0;
}

static int fsocket_listener_getsockopt(struct socket *sock, int level, int optname,
				       char __user *optval, int __user *optlen)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	struct fsocket_listener *l = fsocket_listener_get(sock);
	int ret;

	ret = fsocket_passing(orig->getsockopt(sock, level, optname, optval, optlen));
	if (!l)
		return ret;
	if (!ret && level == SOL_TCP && optname == TCP_INFO &&
	    inet_sk_state_load(sock->sk) == TCP_LISTEN)
		ret = fsocket_info_patch(l, optval, optlen);
	fsocket_listener_put(l);
	return ret;
}

void fsocket_info_set_ops(struct proto_ops *ops)
{
	ops->getsockopt = fsocket_listener_getsockopt;
}
