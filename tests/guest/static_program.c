// SPDX-License-Identifier: GPL-2.0-only
/* Linked statically, so no library can be preloaded into it. */
int main(void)
{
	for (;;)
		;
}
