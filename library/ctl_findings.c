// SPDX-License-Identifier: GPL-2.0-only
/* Prints the findings of doctor's checks: one line for each, or one object in JSON. */
#include <stdarg.h>
#include <stdlib.h>

#include "ctl.h"

enum state { OK, FINDING, SKIPPED };

static struct json json;
/* item is being checked, and said is true once a line about it was printed. */
static const char *item;
static bool said;
static int findings;

static void report(enum state state, const char *text, const char *remedy)
{
	static const char *const names[] = {
		[OK] = "ok", [FINDING] = "finding", [SKIPPED] = "skipped",
	};

	said = true;
	if (ctl_json) {
		json_open(&json, NULL, '{');
		json_string(&json, "item", item);
		json_string(&json, "state", names[state]);
		json_string(&json, "text", text);
		json_string(&json, "remedy", remedy);
		json_close(&json, '}', false);
		return;
	}
	printf("%-8s %-13s ", names[state], item);
	ctl_put_plain(text);
	printf("\n");
	if (remedy)
		printf("%22s  remedy: %s\n", "", remedy);
}

void doctor_finding(const char *remedy, const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		ctl_fail(CTL_FAILED, "out of memory");
	va_end(args);
	report(FINDING, text, remedy);
	findings++;
	free(text);
}

static void report_list(enum state state, const char *format, va_list args)
{
	char *text;

	if (vasprintf(&text, format, args) < 0)
		ctl_fail(CTL_FAILED, "out of memory");
	report(state, text, NULL);
	free(text);
}

void doctor_fine(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	report_list(OK, format, args);
	va_end(args);
}

void doctor_skip(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	report_list(SKIPPED, format, args);
	va_end(args);
}

void doctor_begin(void)
{
	json.out = ctl_json_out;
	if (!ctl_json)
		return;
	json_open(&json, NULL, '{');
	json_open(&json, "items", '[');
}

void doctor_check(const char *name, void (*check)(void), const char *ok)
{
	item = name;
	said = false;
	check();
	if (!said)
		report(OK, ok, NULL);
}

int doctor_end(void)
{
	if (ctl_json) {
		json_close(&json, ']', false);
		json_integer(&json, "findings", findings);
		json_close(&json, '}', true);
	}
	return findings;
}
