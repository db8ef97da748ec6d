# SPDX-License-Identifier: GPL-2.0-only
# Limits, then raw output of KERNEL.N for base and others, to a table. Exit 1 when
# a limit is exceeded or, with all=1, a figure that has one is missing.

FILENAME ~ /limits$/ {
	if (!/^#/ && NF >= 3) {
		limit[++limits] = $3
		limited[limits] = $1
		pattern[limits] = $2
	}
	next
}
/^lab: / || /^#/ || NF != 3 { next }
{
	sub(/\r$/, "", $3)
	kernel = FILENAME
	sub(/.*\//, "", kernel)
	sub(/\..*/, "", kernel)
	if (!(kernel in known)) {
		known[kernel] = 1
		kernels[++nr_kernels] = kernel
	}
	if (!($1 in unit)) {
		name[++names] = $1
		unit[$1] = $3
	}
	k = kernel SUBSEP $1
	if (!(k in n) || $2 < min[k])
		min[k] = $2
	if (!(k in n) || $2 > max[k])
		max[k] = $2
	sum[k] += $2
	n[k]++
}
function mean(k) { return sum[k] / n[k] }
function num(v) { return v == int(v) || v >= 1000 ? sprintf("%.0f", v) : sprintf("%.1f", v) }
function spread(k) { return (k in n) && min[k] > 0 ? (max[k] - min[k]) * 100 / min[k] : 0 }
# the pattern of a figure: * stands for any text
function matches(p, s) {
	gsub(/\./, "\\.", p)
	gsub(/\*/, ".*", p)
	return s ~ "^" p "$"
}
# over KERNEL NAME: what is wrong with it, or nothing
function over(kernel, s,	l, i, b, p) {
	p = kernel SUBSEP s
	b = "base" SUBSEP s
	for (i = 1; i <= limits; i++) {
		if (limited[i] != kernel || !matches(pattern[i], s))
			continue
		hit[i]++
		l = limit[i]
		if (l ~ /%$/) {
			if (!(p in n) || !(b in n))
				return "not measured on both"
			# not what the spread between boots can explain
			if (min[p] > max[b] * (1 + (l + 0) / 100))
				return kernel ": more than " l
		} else if (l ~ /^1\//) {
			if (!(p in n) || !(b in n))
				return "not measured on both"
			if (min[p] * substr(l, 3) > max[b])
				return kernel ": more than " l
		} else {
			if (!(p in n))
				return "not measured"
			if (mean(p) > l + 0)
				return kernel ": more than " l
		}
	}
	return ""
}
END {
	printf "%-34s %14s", "figure", "base"
	for (j = 1; j <= nr_kernels; j++)
		if (kernels[j] != "base")
			printf " %14s %9s", kernels[j], "change"
	printf " %8s  unit\n", "spread"
	for (i = 1; i <= names; i++) {
		s = name[i]
		b = "base" SUBSEP s
		printf "%-34s %14s", s, (b in n) ? num(mean(b)) : "-"
		d = spread(b)
		bad = ""
		for (j = 1; j <= nr_kernels; j++) {
			if (kernels[j] == "base")
				continue
			p = kernels[j] SUBSEP s
			change = "-"
			if ((b in n) && (p in n) && mean(b) > 0)
				change = sprintf("%+.2f%%", (mean(p) / mean(b) - 1) * 100)
			printf " %14s %9s", (p in n) ? num(mean(p)) : "-", change
			if (spread(p) > d)
				d = spread(p)
			o = over(kernels[j], s)
			if (o != "") {
				bad = bad "  <- " o
				failed++
			}
		}
		printf " %8s  %s%s\n", sprintf("%.2f%%", d), unit[s], bad
	}
	for (i = 1; i <= limits; i++)
		if (all && !hit[i] && (limited[i] in known)) {
			print "no figure for the limit of " pattern[i]
			failed++
		}
	exit failed > 0
}
