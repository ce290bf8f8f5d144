# SPDX-License-Identifier: GPL-2.0-only
# Latency over requests, from what ab -g writes (one row per request, by latency):
#   gnuplot -e "out='NAME'; files='A B'; names='a b'; heading='text'" ab-latency.gp
# draws NAME.png and NAME.svg.
set datafile separator "\t"
set key top left
set grid ytics lc rgb "#cccccc"
set title heading
set xlabel "requests, ordered by latency (%)"
set ylabel "latency (ms)"
set xrange [0:100]
set yrange [0:*]
# Okabe and Ito's colours; dashes tell the curves apart in grey.
array colour[7] = ["#000000", "#D55E00", "#56B4E9", "#009E73", "#0072B2", "#E69F00", "#CC79A7"]
array dashes[7] = [1, 1, 2, 3, 4, 5, 2]
array width[7] = [2, 3, 2, 2, 2, 3, 4]
do for [terminal in "png svg"] {
	if (terminal eq "png") { set terminal pngcairo size 1200,750 font "sans,13" } \
	else { set terminal svg size 1000,625 font "sans,13" }
	set output out.".".terminal
	stats word(files, 1) skip 1 using 5 nooutput
	plot for [i=1:words(files)] word(files, i) skip 1 \
		using (100.0 * $0 / (STATS_records - 1)):5 with lines \
		lc rgb colour[i] dt dashes[i] lw width[i] title word(names, i)
	unset output
}
