# SPDX-License-Identifier: GPL-2.0-only
# Output of tests, framed by guest/frame.sh, to "test<tab>case<tab>ok|fail|skip".
#
# Only lines of the outermost TAP level count (upstream's programs may indent
# or prefix that of their own children with "# "). A program that prints no TAP
# is one case, judged by its exit status: 0 ok, 4 skip, else fail.

function put(c, r) { printf "%s\t%s\t%s\n", test, c, r; seen++; n[r]++ }
function finish(status) {
	if (plan != "" && seen != plan)
		put("plan " plan " kept, " seen " seen", "fail")
	else if (status == "none")
		put("ends", "fail")
	else if (!seen)
		put("exit status", status == 0 ? "ok" : status == 4 ? "skip" : "fail")
	else if (status != 0 && status != 4 && !n["fail"])
		put("exit status " status " without a failed case", "fail")
	test = ""
}
/^# begin / {
	if (test != "")
		finish("none")
	test = $3; plan = ""; seen = 0; delete n
	next
}
/^# end / && $3 == test { finish($4); next }
test == "" { next }
/^1\.\.[0-9]+/ {
	plan = substr($1, 4) + 0
	if ($0 ~ /# *SKIP/) {
		put("all", "skip")
		plan = ""
	}
	next
}
/^(not )?ok( |$)/ {
	r = /^not/ ? "fail" : "ok"
	if ($0 ~ /# *SKIP/)
		r = "skip"
	else if (r == "fail" && $0 ~ /# *(XFAIL|TODO)/)
		r = "ok"
	c = $0
	sub(/^(not )?ok *[0-9]* *-? */, "", c)
	sub(/# *(SKIP|XFAIL|TODO) */, "", c)
	gsub(/\t/, " ", c)
	put(seen + 1 " " c, r)
}
# uffd-unit-tests
/^Testing .*\.\.\. (done|skipped|failed)/ {
	r = /\.\.\. done/ ? "ok" : /\.\.\. skipped/ ? "skip" : "fail"
	c = $0
	sub(/^Testing /, "", c)
	sub(/\.\.\. .*/, "", c)
	put(seen + 1 " " c, r)
}
END { if (test != "") finish("none") }
