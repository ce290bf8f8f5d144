// SPDX-License-Identifier: GPL-2.0-only
/* The table of sockets with a listener of ours, references to listeners, and their work items. */
#include <linux/hashtable.h>

#include "listener.h"

/* Held around changes of the list and the table. */
DEFINE_MUTEX(fsocket_listeners_mutex);
LIST_HEAD(fsocket_listeners);
DEFINE_SRCU(fsocket_srcu);
struct workqueue_struct *fsocket_wq;

/* The listeners by socket; changed under fsocket_listeners_mutex. */
static DEFINE_HASHTABLE(fsocket_table, 8);

struct fsocket_listener *fsocket_listener_find(const struct socket *sock)
{
	struct fsocket_listener *l, *found = NULL;

	rcu_read_lock();
	hash_for_each_possible_rcu(fsocket_table, l, in_table, (unsigned long)sock) {
		if (l->sock == sock) {
			found = l;
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

struct fsocket_listener *fsocket_listener_get(const struct socket *sock)
{
	struct fsocket_listener *l;
	int idx;

	idx = srcu_read_lock(&fsocket_srcu);
	l = fsocket_listener_find(sock);
	if (l)
		refcount_inc(&l->refs);
	srcu_read_unlock(&fsocket_srcu, idx);
	return l;
}

void fsocket_listener_show(struct fsocket_listener *l)
{
	list_add_rcu(&l->in_all, &fsocket_listeners);
	hash_add_rcu(fsocket_table, &l->in_table, (unsigned long)l->sock);
}

void fsocket_listener_hide(struct fsocket_listener *l)
{
	mutex_lock(&fsocket_listeners_mutex);
	list_del_rcu(&l->in_all);
	hash_del_rcu(&l->in_table);
	mutex_unlock(&fsocket_listeners_mutex);
}

void fsocket_listener_put(struct fsocket_listener *l)
{
	if (refcount_dec_and_test(&l->refs))
		queue_delayed_work(fsocket_wq, &l->free_work, 0);
}

void fsocket_listener_tidy(struct fsocket_listener *l)
{
	/* The listener that a claim of an exiting task refers to may be ending. */
	if (!refcount_inc_not_zero(&l->refs))
		return;
	if (!queue_work(fsocket_wq, &l->tidy_work))
		fsocket_listener_put(l);
}
