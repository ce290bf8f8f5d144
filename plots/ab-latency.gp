# SPDX-License-Identifier: GPL-2.0-only
# Latency over requests, from files of two columns: % of the requests that were no slower, ms:
#   gnuplot -e "out='NAME'; files='A B'; names='a \"b c\"'; colours='#999999 #D55E00'; \
#     heading='text'; note='text'" ab-latency.gp
# draws NAME.png and NAME.svg.
set datafile separator "\t"
set key top left
set grid ytics lc rgb "#cccccc"
set title heading noenhanced
set xlabel "requests, ordered by latency (%)"
set ylabel "latency (ms)"
set bmargin 5
set label 1 note at screen 0.5, screen 0.02 center noenhanced font ",9" textcolor rgb "#555555"
set xrange [0:100]
set yrange [0:*]
# Dashes tell the curves apart in grey.
array dashes[8] = [1, 1, 2, 3, 4, 5, 2, 3]
array width[8] = [2, 3, 2, 2, 2, 3, 4, 2]
do for [terminal in "png svg"] {
	if (terminal eq "png") { set terminal pngcairo size 1200,750 font "sans,12" } \
	else { set terminal svg size 1000,625 font "sans,12" }
	set output out.".".terminal
	plot for [i=1:words(files)] word(files, i) using 1:2 with lines \
		lc rgb word(colours, i) dt dashes[i] lw width[i] title word(names, i) noenhanced
	unset output
}
