# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# Common ground of the scripts; a script starts with
#	set -eu
#	. "$(dirname "$0")/lib.sh"

set -euo pipefail
export LC_ALL=C
# CONFIG=, T= and so on are for us, not for the kernel's make
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

NAME=$(basename "$0")
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$TOP/build
LINUX=$BUILD/linux
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/linux-shared-pt
JOBS=${JOBS:-$(nproc)}

# ---- what to print ------------------------------------------------------
# Verdicts reach the real stdout even from inside $(...)
exec {VERDICT_FD}>&1

say()  { printf '%s\n' "$*"; }
die()  { verdict FAIL "$@"; }
skip() { verdict SKIP "$@"; }

# verdict PASS|FAIL|SKIP TEXT: the one last line, and the exit status
verdict()
{
	local word=$1
	shift
	printf '%s %s: %s\n' "$word" "$NAME" "$*" >&"$VERDICT_FD"
	[ "$BASH_SUBSHELL" -eq 0 ] || exit 111	# said; see unexpected
	case $word in
	PASS) exit 0 ;;
	SKIP) exit 4 ;;
	*)    exit 1 ;;
	esac
}

# A command that failed with nobody looking is a verdict too
unexpected()
{
	local rc=$1
	shift
	[ "$BASH_SUBSHELL" -eq 0 ] || exit "$rc"
	[ "$rc" -ne 111 ] || exit 1
	verdict FAIL "$* (exit status $rc)"
}
# Who stops a script stops what it runs
stopped()
{
	local job
	for job in $(jobs -p); do
		kill -TERM -- "-$job" 2>/dev/null || true
	done
	verdict FAIL "stopped by SIG$1"
}
trap 'stopped INT' INT
trap 'stopped TERM' TERM

set -E
trap 'unexpected $? "line $LINENO: $BASH_COMMAND"' ERR

# step NAME SECONDS LOG COMMAND...: run COMMAND, its output in LOG, and show
# how far it is. SECONDS is a first guess; the time it took here is remembered
# for the next run. Returns the status of COMMAND.
step()
{
	local name=$1 guess=$2 log=$3 start=$SECONDS last=$SECONDS now pid rc=0
	local memo=$CACHE/times/${name//[^A-Za-z0-9._-]/_}
	shift 3
	mkdir -p "$CACHE/times" "$(dirname "$log")"
	[ ! -s "$memo" ] || guess=$(cat "$memo")
	say "$name: about $(minutes "$guess"), log in ${log#"$TOP"/}"
	set -m	# a process group of its own, to be stopped as a whole
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		now=$((SECONDS - start))
		if [ -t 1 ]; then
			printf '\r  %s of about %s ' "$(minutes "$now")" "$(minutes "$guess")"
		elif [ $((SECONDS - last)) -ge 60 ]; then
			last=$SECONDS
			say "  $name: $(minutes "$now") of about $(minutes "$guess")"
		fi
	done
	wait "$pid" || rc=$?
	[ ! -t 1 ] || printf '\r\033[K'
	[ "$rc" -ne 0 ] || echo $((SECONDS - start)) >"$memo"
	return "$rc"
}

# minutes SECONDS: 75 -> 1 min 15 s
minutes()
{
	if [ "$1" -ge 60 ]; then
		echo "$(($1 / 60)) min $(($1 % 60)) s"
	else
		echo "$1 s"
	fi
}

# ---- what must be there -------------------------------------------------
# need_packages PACKAGE...: Debian packages; root installs what is missing
need_packages()
{
	local p missing=()
	command -v dpkg-query >/dev/null || return 0
	for p; do
		case $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) in
		installed) ;;
		*) missing+=("$p") ;;
		esac
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		die "packages are missing; run: sudo apt-get install --no-install-recommends ${missing[*]}"
	fi
	mkdir -p "$BUILD/log"
	step packages 60 "$BUILD/log/packages" install_packages "${missing[@]}" ||
		die "apt-get could not install ${missing[*]}; see build/log/packages"
}

install_packages()
{
	local get=(apt-get -o DPkg::Lock::Timeout=300 -qy)
	export DEBIAN_FRONTEND=noninteractive
	"${get[@]}" install --no-install-recommends "$@" || {
		"${get[@]}" update && "${get[@]}" install --no-install-recommends "$@"
	}
}

# base KEY: a value from BASE
base()
{
	awk -v k="$1" '$1 == k { print $2 }' "$TOP/BASE"
}

# ensure_tree: build/linux is there, the series applied
ensure_tree()
{
	"$TOP/scripts/base" >&2 || die "no kernel tree in build/linux"
}

# ensure_base_tree: build/base is the unpatched tree
ensure_base_tree()
{
	ensure_tree
	worktree_at "$BUILD/base" base
}

# worktree_at DIR REV: DIR is a worktree of build/linux that stands at REV
worktree_at()
{
	local dir=$1 rev
	rev=$(kgit -C "$LINUX" rev-parse --verify -q "$2^{commit}") ||
		die "no $2 in build/linux"
	if [ ! -e "$dir/.git" ]; then
		kgit -C "$LINUX" worktree prune
		kgit -C "$LINUX" worktree add -q --detach "$dir" "$rev"
	elif [ "$(kgit -C "$dir" rev-parse HEAD)" != "$rev" ]; then
		kgit -C "$dir" checkout -q --detach "$rev"
	fi
}

# ---- git ----------------------------------------------------------------
# git with no influence from anyone's configuration or hooks
kgit()
{
	GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null \
	GIT_COMMITTER_NAME=${GIT_COMMITTER_NAME:-$AUTHOR_NAME} \
	GIT_COMMITTER_EMAIL=${GIT_COMMITTER_EMAIL:-$AUTHOR_EMAIL} \
	git -c safe.directory='*' -c core.hooksPath=/dev/null -c gc.auto=0 \
		-c core.autocrlf=false -c core.quotePath=false \
		-c commit.gpgSign=false -c tag.gpgSign=false -c log.showSignature=false \
		-c am.threeWay=false -c am.keepcr=false \
		-c apply.whitespace=nowarn -c apply.ignoreWhitespace=no \
		-c diff.renames=false -c advice.detachedHead=false "$@"
}
AUTHOR_NAME='Shared PT developers'
AUTHOR_EMAIL=linux-mm@kvack.org

# git_am TREE PATCH...: apply mails, with no fuzz; the same commits every time
git_am()
{
	local tree=$1
	shift
	[ $# -eq 0 ] || kgit -C "$tree" am -q --committer-date-is-author-date "$@"
}

# unfinished TREE: the am, rebase, merge ... that someone is in the middle of
unfinished()
{
	local d f
	d=$(kgit -C "$1" rev-parse --absolute-git-dir)
	for f in rebase-apply rebase-merge MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD; do
		[ ! -e "$d/$f" ] || echo "$f"
	done
}

# makefile_version <Makefile: 6.12.107
makefile_version()
{
	awk '$2 == "=" && $1 ~ /^(VERSION|PATCHLEVEL|SUBLEVEL)$/ && !seen[$1]++ { v = v sep $3; sep = "." }
		END { print v }'
}

# is_6_12 TREE: refuse everything but a git tree of Linux 6.12.y
is_6_12()
{
	local version
	kgit -C "$1" rev-parse -q --verify HEAD >/dev/null 2>&1 ||
		die "$1 is not a git tree"
	version=$(kgit -C "$1" show HEAD:Makefile 2>/dev/null | makefile_version)
	case $version in
	6.12 | 6.12.*) ;;
	*) die "$1 is Linux '$version'; the series is for 6.12.y" ;;
	esac
}

# ---- the series ---------------------------------------------------------
# series_names: part/NNNN-slug.patch in order, one a line
series_names()
{
	[ ! -e "$TOP/series" ] || sed -e '/^#/d' -e '/^[[:space:]]*$/d' "$TOP/series"
}

# series_patches: the same as paths
series_patches()
{
	series_names | sed "s|^|$TOP/patches/|"
}

# series_parts: the parts in order
series_parts()
{
	series_names | sed 's|/.*||' | uniq
}

# kernel_hash COMMIT: of build/linux, without documentation and selftests, of which no
# kernel is built
kernel_hash()
{
	kgit -C "$LINUX" ls-tree -r "$1" |
		grep -vP '\t(Documentation|tools/testing/selftests)/' | sha256sum | cut -c 1-40
}

# series_tree_hash: the tree of base plus series, as refresh saw it
series_tree_hash()
{
	[ ! -e "$TOP/series" ] || awk '$1 == "#" && $2 == "tree" { print $3 }' "$TOP/series"
}

# series_kernel_hash: the same of kernel_hash
series_kernel_hash()
{
	[ ! -e "$TOP/series" ] || awk '$1 == "#" && $2 == "kernel" { print $3 }' "$TOP/series"
}

# series_key: changes when any patch does, be it only in its log
series_key()
{
	cat "$TOP/series" "$TOP/patches/SHA256SUMS" 2>/dev/null | sha256sum | cut -c 1-40
}

# remember TREE: its HEAD is what the patches say
remember()
{
	kgit -C "$1" config sharedpt.state "$(kgit -C "$1" rev-parse HEAD) $(series_key)"
}

# added_files [PATCH...]: the files that the patches add to the base
added_files()
{
	[ $# -eq 0 ] || awk '
		/^diff --git / { file = $4; sub(/^b\//, "", file) }
		/^new file mode / { added[file] = 1 }
		/^deleted file mode / { delete added[file] }
		END { for (file in added) print file }' "$@" | sort
}

# ---- the kernel's make --------------------------------------------------
# kernel_env: the same output for the same input, wherever the clone lies
kernel_env()
{
	export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026'
	export KBUILD_BUILD_USER=shared-pt KBUILD_BUILD_HOST=lab KBUILD_BUILD_VERSION=1
	export LOCALVERSION=
	export CCACHE_BASEDIR=$BUILD CCACHE_NOHASHDIR=1
	export CC=gcc HOSTCC=gcc
	if command -v ccache >/dev/null; then
		CC="ccache gcc" HOSTCC="ccache gcc"
	fi
}

# kmake ARG...: make with these settings; call kernel_env first
kmake()
{
	make -j"$JOBS" CC="$CC" HOSTCC="$HOSTCC" "$@"
}

# What a kernel build needs; scripts add their own to it
# shellcheck disable=SC2034
KERNEL_PACKAGES=(git gcc make libc6-dev flex bison bc libelf-dev libssl-dev
	cpio kmod ccache xz-utils perl rsync)
