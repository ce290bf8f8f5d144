/* SPDX-License-Identifier: GPL-2.0-only */
/* fsocketctl: declarations that its subcommands share. */
#ifndef CTL_H
#define CTL_H

#include <dirent.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>

/* Exit statuses. */
#define CTL_FAILED	1	/* the request was not possible; or doctor has findings */
#define CTL_USAGE	2	/* the arguments were wrong */

/* The queues from which a worker of the kernel backend takes a connection. */
enum {
	GROUP_OWN,	/* its own socket: the connection arrived on its CPU */
	GROUP_SHARED,	/* the listener */
	GROUP_OTHERS,	/* the socket of a worker that was late */
	GROUP_WAYS
};
/* The library makes no more sockets for a group than this: GROUP_MEMBERS of route.h. */
#define GROUP_SOCKETS	128

/* --json was given. */
extern bool ctl_json;
/*
 * The stream for JSON: standard output; for run standard error, since its program owns
 * the former.
 */
extern FILE *ctl_json_out;

/*
 * Prints one sentence on standard error, with --json also {"error": SENTENCE}; ends
 * with @status.
 */
void ctl_fail(int status, const char *format, ...)
	__attribute__((noreturn, format(printf, 2, 3)));

/* Ends the program if there are arguments. */
void ctl_no_arguments(char **argv, const char *subcommand);

/* Allocates memory, or ends the program if there is none. */
void *ctl_alloc(void *old, size_t size);
char *ctl_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds @more, which it frees, to the end of *@text, behind @between unless *@text is NULL. */
void ctl_append(char **text, const char *between, char *more);

/* Does what opendir() does, but ends the program if memory is short. */
DIR *ctl_opendir(const char *path);

/*
 * Returns the content of the file without a newline at its end, or NULL and errno. Zero
 * bytes, which separate the arguments in /proc/PID/cmdline, become blanks.
 */
char *ctl_read(const char *path);
char *ctl_readf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Returns what a shell command prints, with the system's folders in PATH; NULL if it fails. */
char *ctl_output(const char *command);

/* Reads a list such as "0-3,8"; leaves out CPUs from CPU_SETSIZE on. */
void ctl_cpu_list(cpu_set_t *set, const char *list);
void ctl_cpus_online(cpu_set_t *set);

/*
 * Returns the command name of a thread's process, and stores its process ID; "?" and
 * the thread's ID if it has ended or is hidden.
 */
void ctl_process(int tid, int *pid, char comm[64]);

/* Calls @look with the ID of each process. */
void ctl_each_process(void (*look)(int pid));

/* Prints names of processes without characters that a terminal would obey. */
void ctl_put_plain(const char *text);

/* ctl_json.c: prints one JSON value by calls that follow its structure */
struct json {
	FILE *out;
	bool comma;	/* a value precedes in the same braces */
};

/* @name is NULL within brackets and at the top. */
void json_open(struct json *j, const char *name, char brace);
/* Ends the line, too, if @last is set. */
void json_close(struct json *j, char brace, bool last);
/* Prints null if @text is NULL. */
void json_string(struct json *j, const char *name, const char *text);
void json_integer(struct json *j, const char *name, long long value);
void json_decimal(struct json *j, const char *name, double value);
void json_bool(struct json *j, const char *name, bool value);

/* ctl_module.c: reads what the module shows */
struct parameter {
	char *name;
	char *value;
	char *meaning;	/* the description that modinfo prints; NULL if it prints none */
};

struct counters {
	int columns, cpus;
	char **names;			/* number of columns */
	int *cpu;			/* number of rows */
	unsigned long long *values;	/* the values, row by row */
	char *text;
};

/* A row of /proc/net/fastsocket_listeners; kmod/listen_seq.h describes the columns. */
struct listener_row {
	unsigned long inode;
	unsigned int port, queued, limit;
	int family, cpu, attached, worker, host;
	char address[64];
};

#define MODULE_MISSING "the module is not loaded: load it with: modprobe fastsocket"

bool module_loaded(void);
/* Ends the program if the module is not loaded. */
void module_required(void);
/* Returns the parameters in the order of their names. */
struct parameter *module_parameters(int *count);
char *module_meaning(const char *parameter);
struct counters *module_counters(void);
void module_counters_free(struct counters *c);
unsigned long long module_counter_sum(const struct counters *c, int column);
/* Returns the rows sorted by port, socket, CPU; the shared listener of a socket comes first. */
struct listener_row *module_listeners(int *count);

/* ctl_sockets.c */
struct listening {
	unsigned long inode;
	unsigned int port, queued, limit;
	int family;
	char address[64];
};

/*
 * Returns all listening sockets, valid until the next call; ends the program if they
 * cannot be read.
 */
const struct listening *ctl_listening(int *count);

/* ctl_groups.c: reads what the library has made without the module; see library/route.h */
struct group_worker {
	int slot;		/* of the group; a later worker may have it, too */
	int cpu;		/* -1 if none yet */
	bool attached;		/* connections of its CPU are sent to its socket */
	bool pinned;
	int pid, tid;		/* 0 if the worker has ended meanwhile */
	unsigned long inode;	/* of its socket; 0 if it has none yet */
	unsigned int queued, limit;
};

/* The numbers of connections that its workers have accepted since the server started. */
struct slot_seen {
	int cpu;
	unsigned long long by[GROUP_WAYS];
};

struct group_seen {
	struct listening listener;
	int sockets;		/* beside the listener: one for each CPU that it could use */
	int worker_count, idle_count;
	struct group_worker *workers;
	struct listening *idle;	/* sockets that listen and have no worker any more */
	int slots;
	struct slot_seen *accepted;
};

/*
 * Returns the groups sorted by port; only root sees those of other users' servers. With
 * @wanted, returns those of the processes for which it is true.
 */
struct group_seen *groups_of(bool (*wanted)(int pid), int *count);
struct group_seen *groups_seen(int *count);
void groups_free(struct group_seen *groups, int count);
/* Return the number of workers, and of those that get connections by a socket of their own. */
int group_workers(const struct group_seen *g);
int group_attached(const struct group_seen *g);

/* ctl_listeners.c */
/* Ends the program if there is neither the module nor a group that can be seen. */
void groups_required(void);
/* Prints, for status, which servers use Fastsocket and by which backend. */
void servers_json(struct json *j);
void servers_table(void);

/* The subcommands; @argv holds what follows their names. Each returns the exit status. */
int ctl_status(char **argv);
int ctl_set(char **argv);
int ctl_watch(char **argv);
int ctl_listeners(char **argv);
int ctl_doctor(char **argv);
int ctl_run(char **argv);
/* Its option --backend. */
void ctl_run_backend(const char *backend);

/* ctl_findings.c: doctor's checks report to this, between doctor_begin() and doctor_end(). */
void doctor_begin(void);
/* Makes the check of that name; @ok is what to say if it reports nothing. */
void doctor_check(const char *name, void (*check)(void), const char *ok);
/* Returns the number of findings. */
int doctor_end(void);
/* Reports one finding of a check. */
void doctor_finding(const char *remedy, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void doctor_fine(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Reports that the check could not be made. */
void doctor_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ctl_nics.c: network interfaces, for doctor's checks; called after doctor_find_nics() */
struct nic {
	char *name;
	int rx, tx;	/* queues */
	int *cpus;	/* see doctor_queue_cpus() */
};

void doctor_find_nics(void);
const struct nic *doctor_nics(int *count);
/* Parses a mask such as "ff,00000001": groups of 32 bits, the lowest CPUs last. */
void doctor_parse_mask(cpu_set_t *set, const char *mask);
/* Returns the lowest CPU, or -1 if there is none. */
int doctor_first_cpu(const cpu_set_t *set);
/* Stores in @set the CPUs to which RPS moves the packets of the receive queue @queue. */
void doctor_rps_cpus(const struct nic *nic, int queue, cpu_set_t *set);
/*
 * Returns the interrupts of the receive queues of @nic, by number. Drivers keep the
 * interrupts of unused queues too; the queues in use have the lowest numbers.
 */
int *doctor_receive_irqs(const struct nic *nic, int *count);
/* Returns the CPU that the interrupt of each receive queue hits, -1 if it is not known. */
const int *doctor_queue_cpus(const struct nic *nic);
/*
 * Stores in @set the CPUs that handle the packets of a receive queue, after RPS. Returns
 * false if they are not known.
 */
bool doctor_handled_on(const struct nic *nic, int queue, cpu_set_t *set);
/* Does that for all queues; returns the number of CPUs, or -1 if those of one are not known. */
int doctor_handling_cpus(const struct nic *nic, cpu_set_t *all);
/* The number of cores that handle packets of queues of their own, or that RPS gives them. */
int doctor_receive_queues(void);

/* ctl_network.c: doctor's checks of the network interfaces, after doctor_begin_network() */
void doctor_begin_network(void);
void doctor_queues(void);
void doctor_interrupts(void);
void doctor_rps(void);
void doctor_rfs(void);
void doctor_xps(void);
void doctor_programs(void);

/* ctl_delivery.c: doctor's check of cores that handle packets and have no worker */
void doctor_delivery(void);
/* Returns whether RPS moves packets of a queue whose core has no worker only to workers' cores. */
bool doctor_moved_to_workers(const struct nic *nic, int queue);

/* ctl_servers.c: doctor's checks of running servers */
/* Looks at all servers once. Returns false, after a message, if none can be judged. */
bool doctor_look_at_servers(void);
/* Stores in @set the CPUs of workers with Fastsocket, as far as they are known. */
void doctor_worker_cpus(cpu_set_t *set);
/* Returns whether the CPU of each of them is known; to be asked after doctor_look_at_servers(). */
bool doctor_worker_cpus_known(void);
void doctor_workers(void);
void doctor_pinning(void);
void doctor_cpus(void);
void doctor_sockets(void);
void doctor_migrate(void);
/* The groups of the kernel backend that doctor found at its start. */
const struct group_seen *doctor_groups(int *count);

/* ctl_topology.c: doctor's checks of NUMA nodes, and of the threads of a core */
/* Returns the NUMA node of the CPU, or -1 if the kernel does not tell. */
int doctor_cpu_node(int cpu);
void doctor_node(void);
void doctor_siblings(void);

/* ctl_programs.c: doctor's checks of known programs and their configurations */
void doctor_irqbalance(void);
void doctor_accept_mutex(void);
void doctor_multi_queue(void);
void doctor_preload(void);

/* ctl_live.c: doctor's checks of counters that grow within a fifth of a second */
void doctor_overflows(void);
void doctor_drops(void);
void doctor_locality(void);

#endif
