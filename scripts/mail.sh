# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# How a part becomes mails; sourced by cover and mbox after lib.sh

# part_mails DIR PART SENDER [OPTION...]: DIR/0000-*.patch is the cover letter,
# then the patches. The same bytes for the same patches, cover and sender.
part_mails()
{
	local dir=$1 part=$2 sender=$3 text=$TOP/patches/$2/cover.txt
	local subject prefix=PATCH first last
	shift 3
	series_names | grep -q "^$part/" ||
		die "no part '$part' in the series; there are: $(series_parts | xargs)"
	[ -e "$text" ] || die "there is no patches/$part/cover.txt"
	ensure_tree
	[ "$(kgit -C "$LINUX" config sharedpt.state)" = "$(kgit -C "$LINUX" rev-parse HEAD) $(series_key)" ] ||
		die "build/linux is not what the patches say; run make refresh"

	# [RFC PATCH v2] before the title is the prefix of all mails
	subject=$(head -n 1 "$text")
	if [[ $subject == \[*\]* ]]; then
		prefix=${subject%%]*}
		prefix=${prefix#[}
		subject=${subject#*] }
	fi

	last=HEAD~$(series_names | awk -v p="$part/" 'index($0, p) == 1 { n = 0; next } { n++ } END { print n }')
	first=$last~$(series_names | grep -c "^$part/")
	GIT_COMMITTER_NAME=${sender% <*} GIT_COMMITTER_EMAIL=$(address "$sender") \
	kgit -C "$LINUX" -c format.encodeEmailHeaders=true -c format.mboxrd=false \
		-c format.noprefix=false -c log.mailmap=false \
		format-patch -q -o "$dir" --zero-commit --no-signature --full-index -n \
		--cover-letter --thread=shallow --from="$sender" --base=base \
		--subject-prefix="$prefix" --suffix=.patch -p --stat=72 --summary -U3 \
		--no-renames --diff-algorithm=myers --no-ext-diff --no-color \
		--to="$(fragment L)" --cc=linux-kernel@vger.kernel.org \
		"$@" "$first..$last" >/dev/null

	letter "$text" >"$dir/text"
	! grep -q '[^ -~	]' "$dir/text" || die "the cover has characters that are not ASCII"
	SUBJECT=$subject TEXT=$dir/text ID=$(identity "$dir/text" "$sender") \
	DOMAIN=$(address "$sender" | sed 's/.*@//') \
	DATE=$(kgit -C "$LINUX" log --format='%at %aD' "$first..$last" | sort -n | sed -n '$s/^[0-9]* //p') \
	COMMIT=$(base commit) \
		perl "$TOP/scripts/mail.pl" "$dir"/[0-9]*.patch
	rm "$dir/text"
}

# fragment KEY: the value in MAINTAINERS.fragment
fragment()
{
	sed -n "s/^$1:[[:space:]]*//p" "$TOP/MAINTAINERS.fragment" | head -n 1
}

address()
{
	local a=${1#*<}
	echo "${a%>}"
}

# identity: the stem of the Message-Ids
identity()
{
	{ series_key; cat "$1"; echo "$2"; } | sha256sum | cut -c 1-16
}

# letter FILE: the cover without its subject, each line @RESULTS name@ replaced.
# A result that names the tree it was measured on has to be of this one, or of one
# that builds the same kernel
letter()
{
	local line name tree
	sed '1,2d' "$1" | while IFS= read -r line; do
		case $line in
		@RESULTS\ *@)
			name=${line#@RESULTS }
			name=${name%@}
			[ -e "$TOP/results/$name" ] || die "$1: there is no results/$name"
			tree=$(sed -n 's/^# .*others: \([0-9a-f]*\).*/\1/p' "$TOP/results/$name" | head -n 1)
			[ -z "$tree" ] || [ "$tree" = "$(series_tree_hash)" ] ||
				grep -q "^# base: .*, kernel $(series_kernel_hash)$" "$TOP/results/$name" ||
				die "results/$name is of tree $tree, not of the series; run make bench"
			cat "$TOP/results/$name"
			;;
		*) printf '%s\n' "$line" ;;
		esac
	done
}
