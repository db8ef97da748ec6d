# SPDX-License-Identifier: GPL-2.0-only
# stress SECONDS PROGRAM...: rounds of several copies of each program at a time,
# in a memory cgroup from which pages are reclaimed, while the kernel is told to
# compact, merge, migrate and collapse, and some copies are killed or have
# allocations fail. What the programs say is kept in /tmp/said only: their cases
# may fail here, the kernel may not.
cg=/sys/fs/cgroup/stress

disturb()
{
	while sleep 0.$((RANDOM % 9 + 1)); do
		case $((RANDOM % 7)) in
		0) echo 1 >/proc/sys/vm/compact_memory ;;
		1) echo $((RANDOM % 3 + 1)) >/proc/sys/vm/drop_caches ;;
		2) echo $((RANDOM % 64 + 1))M >$cg/memory.reclaim ;;
		3) echo $((RANDOM % 2)) >/sys/kernel/mm/ksm/run ;;
		4) for n in /sys/devices/system/node/node*/compact; do echo 1 >$n; done ;;
		5) head -c 1M /sys/kernel/debug/page_owner >/dev/null ;;
		6) echo always >/sys/kernel/mm/transparent_hugepage/enabled
		   echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled ;;
		esac 2>/dev/null
	done
}

faults()
{
	[ -d /sys/kernel/debug/failslab ] || return
	for f in failslab fail_page_alloc; do
		echo Y >/sys/kernel/debug/$f/task-filter
		echo 3 >/sys/kernel/debug/$f/probability
		echo -1 >/sys/kernel/debug/$f/times
		echo 0 >/sys/kernel/debug/$f/verbose
		echo N >/sys/kernel/debug/$f/ignore-gfp-wait
	done 2>/dev/null
}

# kill_tree PID: it and all that it started
kill_tree()
{
	kill -STOP "$1"
	# the fourth field of stat is the parent
	for child in $(sed -n "s/^\([0-9]*\) (.*) [A-Z] $1 .*/\1/p" /proc/[0-9]*/stat 2>/dev/null); do
		kill_tree "$child"
	done
	kill -9 "$1"
}

# copy PROGRAM KIND: one copy in the cgroup
copy()
{
	sh -c "echo \$\$ >$cg/cgroup.procs
		[ $2 != faults ] || echo 1 >/proc/self/make-it-fail
		exec timeout -s KILL ${COPY_LIMIT:-120} ./$1 ${COPY_ARGS-}" >/tmp/said 2>&1 </dev/null &
	if [ $2 = kill ]; then
		sleep 0.$((RANDOM % 9 + 1))
		kill_tree $! 2>/dev/null
	fi
}

# gone CGROUP...: half a minute is enough for each to become empty
gone()
{
	for g; do
		i=0
		while ! rmdir "$g" 2>/dev/null && [ -d "$g" ]; do
			i=$((i + 1))
			[ $i -lt 30 ] || return 1
			sleep 1
		done
	done
}

tables() { cat /proc/sys/vm/stat_refresh; sed -n 's/^PageTables: *\([0-9]*\) kB/\1/p' /proc/meminfo; }

stress()
{
	until=$(($(cut -d. -f1 /proc/uptime) + $1))
	shift
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control
	mkdir $cg
	echo 1 >/sys/kernel/mm/transparent_hugepage/khugepaged/defrag
	echo 100 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
	echo 100 >/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms
	faults
	before=$(tables)
	disturb &
	disturber=$!
	round=0
	while [ "$(cut -d. -f1 /proc/uptime)" -lt "$until" ]; do
		round=$((round + 1))
		for program; do
			kinds=
			i=$((RANDOM % 3 + 1))
			while [ $i -gt 0 ]; do
				case $((RANDOM % 4)) in
				0) kind=kill ;;
				1) kind=faults ;;
				*) kind=plain ;;
				esac
				kinds="$kinds $kind"
				copy "$program" $kind
				i=$((i - 1))
			done
			echo "# round $round: $program:$kinds"
			for job in $(jobs -p); do
				[ "$job" = "$disturber" ] || wait "$job"
			done
			# unlike killall it misses none that is being forked
			for g in $cg /sys/fs/cgroup/"${program}"_*; do
				echo 1 >"$g/cgroup.kill"
			done
			gone /sys/fs/cgroup/"${program}"_*
		done
	done 2>/dev/null
	kill $disturber
	echo 1..3
	echo "ok 1 $round rounds"
	if gone /sys/fs/cgroup/*/; then
		echo "ok 2 no process is left"
	else
		left=$(cat /sys/fs/cgroup/*/cgroup.procs)
		echo "not ok 2 processes are left:" $left
		for p in $left; do
			grep -E '^(Name|State|Pid|PPid|Threads|SigPnd|ShdPnd)' /proc/$p/status
			cat /proc/$p/stack
		done | sed 's/^/# /'
	fi
	i=0
	while [ "$(tables)" -gt $((before + 256)) ] && [ $i -lt 30 ]; do
		i=$((i + 1))
		sleep 1
	done
	[ $i -lt 30 ] && echo "ok 3 page tables are back" || echo "not ok 3 page tables: $before kB before, $(tables) kB after"
}
