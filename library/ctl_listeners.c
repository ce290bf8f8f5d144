// SPDX-License-Identifier: GPL-2.0-only
/*
 * fsocketctl listeners prints, in one form, the listening sockets that have local
 * listeners of the module and those that have a group of the library's kernel backend.
 */
#include <stdlib.h>
#include <unistd.h>

#include "ctl.h"

void groups_required(void)
{
	struct group_seen *groups;
	int count;

	if (module_loaded())
		return;
	groups = groups_seen(&count);
	groups_free(groups, count);
	if (!count)
		ctl_fail(CTL_FAILED, MODULE_MISSING "; and no server%s uses the kernel backend",
			 geteuid() ? " of this user" : "");
}

static void worker_json(struct json *j, int pid, int tid)
{
	char comm[64];
	int process;

	if (!tid) {
		json_string(j, "pid", NULL);
		json_string(j, "tid", NULL);
		json_string(j, "command", NULL);
		return;
	}
	ctl_process(tid, &process, comm);
	json_integer(j, "pid", pid ? pid : process);
	json_integer(j, "tid", tid);
	json_string(j, "command", comm);
}

static void row_json(struct json *j, const struct listener_row *row)
{
	json_open(j, NULL, '{');
	json_integer(j, "cpu", row->cpu);
	json_bool(j, "attached", row->attached);
	json_integer(j, "queued", row->queued);
	json_integer(j, "limit", row->limit);
	if (row->host < 0)
		json_string(j, "served_by", NULL);
	else
		json_integer(j, "served_by", row->host);
	worker_json(j, 0, row->worker);
	json_close(j, '}', false);
}

static void module_json(struct json *j)
{
	struct listener_row *rows;
	int count;

	rows = module_listeners(&count);
	for (int i = 0; i < count;) {
		const struct listener_row *shared = &rows[i++];

		json_open(j, NULL, '{');
		json_string(j, "backend", "module");
		json_string(j, "address", shared->address);
		json_integer(j, "port", shared->port);
		json_integer(j, "family", shared->family);
		json_integer(j, "inode", shared->inode);
		json_bool(j, "listening", shared->attached);
		json_integer(j, "queued", shared->queued);
		json_integer(j, "limit", shared->limit);
		json_open(j, "workers", '[');
		for (; i < count && rows[i].cpu >= 0; i++)
			row_json(j, &rows[i]);
		json_close(j, ']', false);
		json_close(j, '}', false);
	}
	free(rows);
}

static void member_json(struct json *j, const struct group_worker *w)
{
	json_open(j, NULL, '{');
	if (w->inode) {
		json_integer(j, "cpu", w->cpu);
		json_bool(j, "attached", w->attached);
		json_integer(j, "queued", w->queued);
		json_integer(j, "limit", w->limit);
		json_integer(j, "inode", w->inode);
	} else {
		json_string(j, "cpu", NULL);
		json_bool(j, "attached", false);
		json_string(j, "queued", NULL);
		json_string(j, "limit", NULL);
		json_string(j, "inode", NULL);
	}
	json_bool(j, "pinned", w->pinned);
	worker_json(j, w->pid, w->tid);
	json_close(j, '}', false);
}

static void idle_json(struct json *j, const struct listening *l)
{
	json_open(j, NULL, '{');
	json_string(j, "cpu", NULL);
	json_bool(j, "attached", false);
	json_integer(j, "queued", l->queued);
	json_integer(j, "limit", l->limit);
	json_integer(j, "inode", l->inode);
	json_bool(j, "pinned", false);
	worker_json(j, 0, 0);
	json_close(j, '}', false);
}

static void group_json(struct json *j, const struct group_seen *g)
{
	json_open(j, NULL, '{');
	json_string(j, "backend", "kernel");
	json_string(j, "address", g->listener.address);
	json_integer(j, "port", g->listener.port);
	json_integer(j, "family", g->listener.family);
	json_integer(j, "inode", g->listener.inode);
	json_bool(j, "listening", true);
	json_integer(j, "queued", g->listener.queued);
	json_integer(j, "limit", g->listener.limit);
	json_integer(j, "sockets", g->sockets);
	json_open(j, "workers", '[');
	for (int i = 0; i < g->worker_count; i++)
		member_json(j, &g->workers[i]);
	for (int i = 0; i < g->idle_count; i++)
		idle_json(j, &g->idle[i]);
	json_close(j, ']', false);
	json_close(j, '}', false);
}

static void print_address(const char *address, int family, unsigned int port)
{
	printf(family == 6 ? "[%s]:%u" : "%s:%u", address, port);
}

static void print_head(const char *state, unsigned int queued, unsigned int limit)
{
	printf("  core  queued   limit  state          pid  command\n");
	printf("   all  %6u  %6u  %s\n", queued, limit, state);
}

static void print_process(int tid)
{
	char comm[64];
	int pid;

	ctl_process(tid, &pid, comm);
	printf("  %8d  ", pid);
	ctl_put_plain(comm);
}

static void module_table(const struct listener_row *rows, int count)
{
	for (int i = 0; i < count; i++) {
		const struct listener_row *row = &rows[i];

		if (row->cpu < 0) {
			printf("%s", i ? "\n" : "");
			print_address(row->address, row->family, row->port);
			printf(" (socket %lu)\n", row->inode);
			print_head(row->attached ? "shared" : "closed", row->queued, row->limit);
			continue;
		}
		printf("  %4d  %6u  %6u  %-8s", row->cpu, row->queued, row->limit,
		       row->attached ? "attached" : "parked");
		if (row->host >= 0)
			printf("            worker of core %d", row->host);
		else if (row->worker)
			print_process(row->worker);
		printf("\n");
	}
}

static void group_table(const struct group_seen *g)
{
	print_address(g->listener.address, g->listener.family, g->listener.port);
	printf(" (socket %lu, kernel backend)\n", g->listener.inode);
	print_head("shared", g->listener.queued, g->listener.limit);
	for (int i = 0; i < g->worker_count; i++) {
		const struct group_worker *w = &g->workers[i];

		if (w->inode)
			printf("  %4d  %6u  %6u  %-8s", w->cpu, w->queued, w->limit,
			       w->attached ? "attached" : "late");
		else
			printf("  %4s  %6s  %6s  %-8s", "-", "-", "-", "shared");
		if (w->tid)
			print_process(w->tid);
		printf("%s\n", w->inode && w->tid && !w->pinned ? "  (not pinned)" : "");
	}
	for (int i = 0; i < g->idle_count; i++)
		printf("  %4s  %6u  %6u  parked\n", "-", g->idle[i].queued, g->idle[i].limit);
}

int ctl_listeners(char **argv)
{
	struct json j = { .out = ctl_json_out };
	struct listener_row *rows = NULL;
	struct group_seen *groups;
	int count = 0, group_count;

	ctl_no_arguments(argv, "listeners");
	groups_required();
	groups = groups_seen(&group_count);
	if (ctl_json) {
		json_open(&j, NULL, '{');
		json_open(&j, "listeners", '[');
		if (module_loaded())
			module_json(&j);
		for (int i = 0; i < group_count; i++)
			group_json(&j, &groups[i]);
		json_close(&j, ']', false);
		json_close(&j, '}', true);
		return 0;
	}
	if (module_loaded())
		rows = module_listeners(&count);
	if (!count && !group_count)
		printf("no listening socket has local listeners\n");
	module_table(rows, count);
	for (int i = 0; i < group_count; i++) {
		printf("%s", i || count ? "\n" : "");
		group_table(&groups[i]);
	}
	return 0;
}

/* Calls @put with each server. */
static void each_server(void (*put)(struct json *j, const char *backend,
				    const struct listening *l, int workers), struct json *j)
{
	struct listener_row *rows = NULL;
	struct group_seen *groups;
	int count = 0;

	if (module_loaded())
		rows = module_listeners(&count);
	for (int i = 0; i < count;) {
		const struct listener_row *shared = &rows[i++];
		struct listening l = { .inode = shared->inode, .port = shared->port,
				       .family = shared->family };
		int workers = 0;

		snprintf(l.address, sizeof(l.address), "%s", shared->address);
		for (; i < count && rows[i].cpu >= 0; i++)
			workers += rows[i].attached && rows[i].host < 0;
		put(j, "module", &l, workers);
	}
	free(rows);
	groups = groups_seen(&count);
	for (int i = 0; i < count; i++)
		put(j, "kernel", &groups[i].listener, group_workers(&groups[i]));
	groups_free(groups, count);
}

static void server_json(struct json *j, const char *backend, const struct listening *l, int workers)
{
	json_open(j, NULL, '{');
	json_string(j, "backend", backend);
	json_string(j, "address", l->address);
	json_integer(j, "port", l->port);
	json_integer(j, "family", l->family);
	json_integer(j, "inode", l->inode);
	json_integer(j, "workers", workers);
	json_close(j, '}', false);
}

void servers_json(struct json *j)
{
	json_open(j, "servers", '[');
	each_server(server_json, j);
	json_close(j, ']', false);
}

static void server_row(struct json *j, const char *backend, const struct listening *l, int workers)
{
	(void)j;
	printf("%-8s %8d  ", backend, workers);
	print_address(l->address, l->family, l->port);
	printf("\n");
}

void servers_table(void)
{
	printf("backend   workers  server\n");
	each_server(server_row, NULL);
}
