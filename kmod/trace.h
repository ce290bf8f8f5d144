/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints for perf and bpftrace: perf list 'fastsocket:*'. While a tracepoint is
 * disabled it is a NOP. docs/reference.md is made from these comments.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM fastsocket

#if !defined(FSOCKET_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define FSOCKET_TRACE_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(fsocket_listener,
	TP_PROTO(u16 port, int cpu),
	TP_ARGS(port, cpu),
	TP_STRUCT__entry(
		__field(u16, port)
		__field(int, cpu)
	),
	TP_fast_assign(
		__entry->port = port;
		__entry->cpu = cpu;
	),
	TP_printk("port=%u cpu=%d", __entry->port, __entry->cpu)
);

/* The local listener of port on cpu joins the SO_REUSEPORT group. */
DEFINE_EVENT(fsocket_listener, fsocket_spawn,
	TP_PROTO(u16 port, int cpu), TP_ARGS(port, cpu));

/* The local listener of port on cpu leaves the SO_REUSEPORT group. */
DEFINE_EVENT(fsocket_listener, fsocket_retire,
	TP_PROTO(u16 port, int cpu), TP_ARGS(port, cpu));

DECLARE_EVENT_CLASS(fsocket_established,
	TP_PROTO(u16 sport, u16 dport),
	TP_ARGS(sport, dport),
	TP_STRUCT__entry(
		__field(u16, sport)
		__field(u16, dport)
	),
	TP_fast_assign(
		__entry->sport = sport;
		__entry->dport = dport;
	),
	TP_printk("sport=%u dport=%u", __entry->sport, __entry->dport)
);

/* A received packet's connection is in the established table of the receiving CPU. */
DEFINE_EVENT(fsocket_established, fsocket_hit,
	TP_PROTO(u16 sport, u16 dport), TP_ARGS(sport, dport));

/* A received packet's connection is not in the established table of the receiving CPU. */
DEFINE_EVENT(fsocket_established, fsocket_miss,
	TP_PROTO(u16 sport, u16 dport), TP_ARGS(sport, dport));

/* A received packet is queued to CPU to. */
TRACE_EVENT(fsocket_steer,
	TP_PROTO(u16 sport, u16 dport, int to),
	TP_ARGS(sport, dport, to),
	TP_STRUCT__entry(
		__field(u16, sport)
		__field(u16, dport)
		__field(int, to)
	),
	TP_fast_assign(
		__entry->sport = sport;
		__entry->dport = dport;
		__entry->to = to;
	),
	TP_printk("sport=%u dport=%u to=%d", __entry->sport, __entry->dport,
		  __entry->to)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
