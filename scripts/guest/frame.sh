# SPDX-License-Identifier: GPL-2.0-only
# Sourced in the guest. frame NAME SECONDS [hugepages=N] [as_nobody] COMMAND...: one
# test, with the frame around its output that scripts/tap.awk reads.
frame()
{
	name=$1 limit=$2
	shift 2
	case $1 in hugepages=*)
		echo "${1#*=}" >/proc/sys/vm/nr_hugepages
		shift ;;
	esac
	if [ "$1" = as_nobody ]; then
		shift
		set -- su nobody -s /bin/sh -c "$*"
	fi
	echo "# begin $name"
	echo "lab: begin $name" >/dev/kmsg
	t0=$(cut -d. -f1 /proc/uptime)
	timeout -s KILL "$limit" "$@" </dev/null 2>&1
	rc=$?
	# what a test left unfinished in its last line ends here
	echo
	echo "# end $name $rc $(($(cut -d. -f1 /proc/uptime) - t0))"
}

# swap: half a gigabyte of compressed memory to swap to
swap()
{
	echo "${1:-512M}" >/sys/block/zram0/disksize &&
	mkswap /dev/zram0 >/dev/null && swapon /dev/zram0
}
