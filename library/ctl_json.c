// SPDX-License-Identifier: GPL-2.0-only
#include <string.h>

#include "ctl.h"

/* Returns the length of the UTF-8 character at @text, or 0 if the bytes are not UTF-8. */
static int utf8_length(const unsigned char *text)
{
	static const struct {
		unsigned char first, last, second_min, second_max;
		int length;
	} forms[] = {
		{ 0xc2, 0xdf, 0x80, 0xbf, 2 },
		{ 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 },
		{ 0xed, 0xed, 0x80, 0x9f, 3 },
		{ 0xee, 0xef, 0x80, 0xbf, 3 },
		{ 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 },
		{ 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		if (text[0] < forms[i].first || text[0] > forms[i].last)
			continue;
		if (text[1] < forms[i].second_min || text[1] > forms[i].second_max)
			return 0;
		for (int k = 2; k < forms[i].length; k++)
			if ((text[k] & 0xc0) != 0x80)
				return 0;
		return forms[i].length;
	}
	return 0;
}

/* Names of processes and files may be any bytes: those that are not UTF-8 are replaced. */
static void put_string(FILE *out, const char *text)
{
	const unsigned char *at = (const unsigned char *)text;

	putc('"', out);
	while (*at) {
		int length = *at < 0x80 ? 1 : utf8_length(at);

		if (!length) {
			fputs("\\ufffd", out);
			length = 1;
		} else if (*at == '"' || *at == '\\') {
			fprintf(out, "\\%c", *at);
		} else if (*at < 0x20) {
			fprintf(out, "\\u%04x", *at);
		} else {
			fwrite(at, length, 1, out);
		}
		at += length;
	}
	putc('"', out);
}

static void put_name(struct json *j, const char *name)
{
	if (j->comma)
		fputs(", ", j->out);
	j->comma = true;
	if (name) {
		put_string(j->out, name);
		fputs(": ", j->out);
	}
}

void json_open(struct json *j, const char *name, char brace)
{
	put_name(j, name);
	putc(brace, j->out);
	j->comma = false;
}

void json_close(struct json *j, char brace, bool last)
{
	putc(brace, j->out);
	j->comma = true;
	if (last) {
		putc('\n', j->out);
		fflush(j->out);
		j->comma = false;
	}
}

void json_string(struct json *j, const char *name, const char *text)
{
	put_name(j, name);
	if (text)
		put_string(j->out, text);
	else
		fputs("null", j->out);
}

void json_integer(struct json *j, const char *name, long long value)
{
	put_name(j, name);
	fprintf(j->out, "%lld", value);
}

void json_decimal(struct json *j, const char *name, double value)
{
	put_name(j, name);
	fprintf(j->out, "%.3f", value);
}

void json_bool(struct json *j, const char *name, bool value)
{
	put_name(j, name);
	fputs(value ? "true" : "false", j->out);
}
