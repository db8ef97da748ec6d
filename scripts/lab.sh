# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# Common ground of build, boot, selftest, stress, bench, shell, demo and test:
# the configurations, the guest, and what counts as a failure in it.
# Sourced after lib.sh.
# shellcheck disable=SC2034 # what is set here is used by those

OUT=$BUILD/out
CONFDIR=$TOP/scripts/config
GUESTDIR=$TOP/scripts/guest

# set_args NAME=value...: settings come as arguments or from the environment
set_args()
{
	local a
	for a; do
		case $a in
		[A-Z]*=*) declare -g "${a%%=*}=${a#*=}" ;;
		*) die "not a NAME=value: $a" ;;
		esac
	done
}

# ---- configurations -----------------------------------------------------
# config_tree CONFIG: the source tree it is built from
config_tree()
{
	case $1 in
	base) echo "$BUILD/base" ;;
	perf|npm|perf-off|debug|npm-debug|kasan|npm-kasan) echo "$LINUX" ;;
	mutant) echo "$BUILD/mutant/linux" ;;	# see scripts/mutants
	*) die "unknown CONFIG '$1'; there are: perf base npm debug npm-debug kasan npm-kasan perf-off" ;;
	esac
}

# config_out CONFIG: where it is built. The way from there to the source is the same
# for all, so that the compiler's cache knows a mutant's files.
config_out()
{
	case $1 in
	mutant) echo "$BUILD/mutant/out/debug" ;;
	*) echo "$OUT/$1" ;;
	esac
}

# config_symbols CONFIG: all that the configuration asks for, last word wins.
# The fragment of selftests/mm is the patched tree's, also for base, but for the
# features. It wants modules: built in here. TEST_VMALLOC can only be a module,
# TEST_HMM is for debug and kasan: left out.
config_symbols()
{
	cat "$CONFDIR/kernel.config"
	grep -vE "^($(sed -n 's/^\(CONFIG_[A-Z0-9_]*\)=.*/\1/p' "$CONFDIR/features.config" | paste -sd '|')|CONFIG_TEST_VMALLOC|CONFIG_TEST_HMM)=" \
		"$LINUX/tools/testing/selftests/mm/config" | sed 's/=m$/=y/'
	case $1 in
	base|perf|npm|perf-off) cat "$CONFDIR/perf.config" ;;
	debug|npm-debug|mutant) cat "$CONFDIR/debug.config" ;;
	kasan|npm-kasan) cat "$CONFDIR/debug.config" "$CONFDIR/kasan.config" ;;
	esac
	case $1 in
	base) ;;
	perf-off) sed -n 's/^\(CONFIG_[A-Z0-9_]*\)=.*/# \1 is not set/p' "$CONFDIR/features.config" ;;
	npm*) cat "$CONFDIR/features.config" "$CONFDIR/npm.config" ;;
	*) cat "$CONFDIR/features.config" ;;
	esac
	[ "$1" != npm-kasan ] || cat "$CONFDIR/npm-kasan.config"
}

bzimage() { echo "$(config_out "$1")/arch/x86/boot/bzImage"; }

# ---- the guest ----------------------------------------------------------
GUEST_PACKAGES=(qemu-system-x86 busybox-static cpio e2fsprogs gcc libc6-dev)

# slower CONFIG SECONDS: a limit stretched to what the configuration needs
slower()
{
	case $1 in
	debug|npm-debug|mutant) echo $(($2 * 3)) ;;
	kasan|npm-kasan) echo $(($2 * 5)) ;;
	*) echo "$2" ;;
	esac
}

# make_initrd FILE: busybox and /init, nothing more
make_initrd()
{
	local d
	d=$(mktemp -d)
	chmod 755 "$d"
	mkdir "$d/bin"
	cp /bin/busybox "$d/bin/busybox"
	install -m 755 "$GUESTDIR/init" "$d/init"
	(cd "$d" && find . | cpio -o -H newc --quiet) >"$1"
	rm -rf "$d"
}

# stage NAME: an empty directory whose content the guest sees as /data (ext4);
# the script "run" in it is what the guest does
stage()
{
	local n=1
	mkdir -p "$OUT/run"
	RUN=$OUT/run/$1
	# two runs of one name at the same time: the second gets its own place
	exec {RUN_LOCK}>"$RUN.lock"
	until flock -n "$RUN_LOCK"; do
		n=$((n + 1))
		RUN=$OUT/run/$1.$n
		exec {RUN_LOCK}>&-
		exec {RUN_LOCK}>"$RUN.lock"
	done
	STAGE=$RUN/data
	rm -rf "$RUN"
	mkdir -p "$STAGE/bin" "$STAGE/tmp"
	chmod 1777 "$STAGE/tmp"
}

# memory CONFIG: poisoning touches all of it at boot, so the less the quicker
memory()
{
	case $1 in
	debug|npm-debug|mutant|kasan|npm-kasan) echo 2G ;;
	*) echo 4G ;;
	esac
}

# qemu_args CONFIG: the machine, in QEMU[]; SMP, MEM, APPEND, ICOUNT, ACCEL and
# NUMA change it. KVM only when asked for: nothing is found out by trying.
qemu_args()
{
	local accel append smp=${SMP:-2}
	append="panic=-1 oops=panic loglevel=6 page_poison=1 unknown_nmi_panic"
	append+=" watchdog_thresh=60 workqueue.watchdog_thresh=120"
	append+=" transparent_hugepage=madvise lpj=10000000"
	# on a busy host the timer may seem not to work; to ask ACPI about interrupts
	# takes KASAN more than a minute
	append+=" no_timer_check pci=noacpi"
	QEMU=(qemu-system-x86_64 -nographic -nodefaults -no-reboot -m "${MEM:-$(memory "$1")}"
		-kernel "$(bzimage "$1")" -initrd "$RUN/initrd"
		-drive "file=$RUN/data.img,if=virtio,format=raw,cache=unsafe"
		-virtfs "local,path=$OUT/share,mount_tag=host,security_model=none,multidevs=remap")
	if [ -n "${ICOUNT-}" ]; then
		# guest time is guest instructions: 1 ns each
		smp=1
		append+=" mitigations=off"
		QEMU+=(-accel tcg -icount "shift=0,sleep=off" -cpu max)
	elif [ "${ACCEL:-tcg}" = tcg ]; then
		accel=tcg,thread=multi
		QEMU+=(-accel "$accel" -cpu max)
	else
		QEMU+=(-accel "$ACCEL" -cpu host)
	fi
	[ "${NUMA:-1}" = 1 ] || append+=" numa=fake=$NUMA"
	QEMU+=(-smp "$smp" -append "console=ttyS0 $append ${APPEND-}")
}

# make_disk: $STAGE as an ext4 image with room to spare, and the initramfs
make_disk()
{
	make_initrd "$RUN/initrd"
	mke2fs -q -F -t ext4 -d "$STAGE" -E lazy_itable_init=1,lazy_journal_init=1 \
		"$RUN/data.img" "${DISK:-3G}" >/dev/null || die "mke2fs"
	mkdir -p "$OUT/share"
}

# run_guest CONFIG SECONDS: boot it, let it run, at most so long. Afterwards
# $RUN/console and $RUN/result are there, and OUTCOME is "ok", or in one line
# why what the guest said cannot be relied on. STATUS is what "run" exited with.
# With FOLLOW=1 the result is shown as it comes.
run_guest()
{
	local qemu monitor tail='' t0=$SECONDS
	OUTCOME=ok STATUS=
	[ -f "$(bzimage "$1")" ] || die "no kernel for $1: scripts/build $1"
	make_disk
	qemu_args "$1"
	mkfifo "$RUN/monitor"
	exec {monitor}<>"$RUN/monitor"
	: >"$RUN/result"
	"${QEMU[@]}" -serial "file:$RUN/console" -monitor stdio \
		-device virtio-serial-pci \
		-chardev "file,id=result,path=$RUN/result" \
		-device virtserialport,chardev=result,name=result \
		<&"$monitor" >"$RUN/qemu.log" 2>&1 &
	qemu=$!
	# shellcheck disable=SC2064
	trap "kill -9 $qemu 2>/dev/null" EXIT
	if [ -n "${FOLLOW-}" ]; then
		tail -n +1 -s 0.3 -f --pid=$qemu "$RUN/result" | sed -u '/^lab: end /d' &
		tail=$!
	fi
	while kill -0 $qemu 2>/dev/null; do
		if [ $((SECONDS - t0)) -ge "$2" ]; then
			# backtraces of all CPUs onto the console, then the end
			OUTCOME="timeout after $2 s"
			printf 'info registers -a\nnmi\n' >&"$monitor"
			sleep 5
			printf 'quit\n' >&"$monitor"
			sleep 1
			kill -9 $qemu 2>/dev/null || :
			break
		fi
		sleep 0.2
	done
	wait $qemu || [ "$OUTCOME" != ok ] || OUTCOME="qemu exited with $?"
	trap - EXIT
	exec {monitor}>&-
	[ -z "$tail" ] || wait "$tail" || :
	rm -f "$RUN/data.img" "$RUN/monitor" "$RUN/initrd"
	GUEST_SECONDS=$((SECONDS - t0))
	judge
}

# judge: OUTCOME from console and result, if the run itself was in order
judge()
{
	local pat
	touch "$RUN/console"
	STATUS=$(tr -d '\r\0' <"$RUN/result" | sed -n '$s/^lab: end \([0-9]*\)$/\1/p')
	pat=$(sed -e '/^#/d' -e '/^$/d' "$CONFDIR/splats" | paste -sd '|')
	tr -d '\r' <"$RUN/console" | grep -nEa "$pat" >"$RUN/splats" || :
	[ "$OUTCOME" = ok ] || return 0
	if grep -qa 'Kernel panic' "$RUN/console"; then
		OUTCOME="panic: $(grep -am1 -E 'BUG|panic' "$RUN/splats" | cut -c1-120)"
	elif [ -s "$RUN/splats" ]; then
		OUTCOME="splat: $(head -1 "$RUN/splats" | cut -c1-120)"
	elif [ -z "$STATUS" ]; then
		OUTCOME="silence: the result has no end"
	fi
}

# ---- TAP ----------------------------------------------------------------
# tap_cases FILE: one line "test<tab>case<tab>ok|fail|skip" for each case. FILE has
# the frames "# begin NAME" and "# end NAME STATUS SECONDS" of guest/frame.sh
# around the output of each test. A plan that is not kept, a status that does not fit, an end that
# is missing: a failed case more.
tap_cases()
{
	tr -d '\r\0' <"$1" | awk -f "$TOP/scripts/tap.awk"
}

# tap_sum: counts of such lines: "N passed, N failed, N skipped"
tap_sum()
{
	awk -F '\t' '{ n[$3]++ }
	END { printf "%d passed, %d failed, %d skipped\n", n["ok"], n["fail"], n["skip"] }'
}

# ---- programs for the guest ---------------------------------------------
SELFTEST_PACKAGES=(libcap-dev libnuma-dev liburing-dev)

# ksft_sync: what selftests/mm needs of the patched tree, in a copy, so that
# building leaves the tree alone
ksft_sync()
{
	KSFT=$OUT/kselftest
	mkdir -p "$KSFT/src" "$KSFT/mm"
	(cd "$LINUX" && rsync -aR --delete --exclude=/tools/testing/selftests/mm/local_config.\* \
		tools/testing/selftests/mm tools/testing/selftests/lib.mk \
		tools/testing/selftests/kselftest.h tools/testing/selftests/kselftest_harness.h \
		tools/testing/selftests/x86/check_cc.sh tools/testing/selftests/x86/trivial_32bit_program.c \
		tools/testing/selftests/x86/trivial_64bit_program.c tools/testing/selftests/x86/trivial_program.c \
		tools/include mm/gup_test.h lib/test_hmm_uapi.h include/vdso/time64.h "$KSFT/src")
	kernel_env
	kmake -s -C "$LINUX" O="$KSFT/headers" headers
}

ksft_make()
{
	make -s -j"$JOBS" -C "$KSFT/src/tools/testing/selftests/mm" CC=gcc OUTPUT="$KSFT/mm" \
		KHDR_INCLUDES="-isystem $KSFT/headers/usr/include" EXTRA_CFLAGS=-static "${@/#/$KSFT/mm/}"
}

# ksft_build [NAME...]: static selftests in $KSFT/mm, and the headers to build with
ksft_build()
{
	need_packages "${KERNEL_PACKAGES[@]}" "${SELFTEST_PACKAGES[@]}"
	ensure_tree
	KSFT=$OUT/kselftest
	mkdir -p "$OUT"
	(
		flock 9
		step kselftest-headers 20 "$BUILD/log/kselftest-headers" ksft_sync ||
			die "make headers; see build/log/kselftest-headers"
		[ $# -gt 0 ] || exit 0
		step "kselftest $#" $(($# * 2)) "$BUILD/log/kselftest" ksft_make "$@" || {
			grep -A5 'error\|No rule' "$BUILD/log/kselftest" | tail -40
			die "build of the selftests; log in build/log/kselftest"
		}
	) 9>"$OUT/kselftest.lock"
}

# upstream_tests: lines "name seconds command" of the list of upstream's tests
upstream_tests()
{
	sed -e '/^#/d' -e '/^[[:space:]]*$/d' "$CONFDIR/upstream-tests"
}

# programs_of: the programs that such lines on stdin start
programs_of()
{
	tr '\t' ' ' | tr ' ' '\n' | sed -n 's|^\./||p' | sort -u
}

# all_programs: of upstream and of the series
all_programs()
{
	{
		upstream_tests | programs_of
		[ ! -f "$LINUX/tools/testing/selftests/mm/shared_pt.c" ] || echo shared_pt
	} | sort -u
}

# guest_env CONFIG: what the tests are told of the kernel, as lines of "run". One
# that has a feature must not look as if it had not: then tests are not skipped.
guest_env()
{
	case $1 in
	base|perf-off) ;;
	*) echo 'export FOLIO_MAPCOUNT_REQUIRED=1 COW_PTE_REQUIRED=1' ;;
	esac
}

# guest_cc FILE.c OUTPUT: a static program of scripts/guest
guest_cc()
{
	gcc -O2 -Wall -static -isystem "$OUT/kselftest/headers/usr/include" -o "$2" "$1" -lpthread
}

# ---- the end of a run ---------------------------------------------------
# count_run: cases of the run that just ended, in $RUN/cases; a guest that
# cannot be relied on is a failed case more. Returns 1 if one failed.
count_run()
{
	tap_cases "$RUN/result" >"$RUN/cases"
	[ -s "$RUN/cases" ] || [ "$OUTCOME" != ok ] || OUTCOME="silence: no test said anything"
	if [ "$OUTCOME" != ok ]; then
		head -5 "$RUN/splats" | sed 's/^/# console: /'
		printf 'guest\t%s\tfail\n' "$OUTCOME" >>"$RUN/cases"
	fi
	awk -F '\t' '$3 == "fail" { print "# failed: " $1 ": " $2 }' "$RUN/cases"
	COUNTS=$(tap_sum <"$RUN/cases")
	! grep -q 'fail$' "$RUN/cases"
}
