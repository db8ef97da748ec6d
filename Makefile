# SPDX-License-Identifier: GPL-2.0-only
# Every target runs scripts/<target>, which prints one verdict line last and
# exits 0 (PASS), 1 (FAIL) or 4 (SKIP); make itself turns 1 and 4 into 2.

# Handed to the scripts through the environment
export KDIR CONFIG T SMP FROM PART ACCEL

TARGETS := demo test apply refresh check lint each build boot selftest stress \
	   bench shell cover mbox clean

.PHONY: help $(TARGETS)
.DEFAULT_GOAL := help

help:       ## this text
	@scripts/help

# The two commands for everyone
demo:       ## boot the patched kernel; N processes share one set of page tables
test:       ## prove everything: tooling, check, build, boot, selftests

# Working on the series
apply:      ## git am the series on a new branch of KDIR=tree (default: make build/linux)
refresh:    ## export build/linux to patches/, series and the mirrored files
check:      ## prove in seconds that patches, series and mirrored files agree
lint:       ## checkpatch, kernel-doc, sparse, coccicheck and W=1: nothing new
each:       ## build after every patch, feature on and off [FROM=patch number]

# The lab
build:      ## build a kernel [CONFIG=perf|base|debug|kasan]
boot:       ## boot it once [CONFIG= SMP= ACCEL=kvm]
selftest:   ## kernel selftests in the guest [T=name SMP=n CONFIG=]
stress:     ## long random runs on the debug kernel [T=name SMP=n]
bench:      ## count guest instructions, base and patched side by side
shell:      ## a console in the guest, the tests at hand [CONFIG= SMP=]

# Sending it
cover:      ## print the cover letter of a part [PART=3-shared-pt]
mbox:       ## write build/mbox/PART.mbox, signed off by you [PART=]

clean:      ## remove what was built; keep build/linux and the caches

$(TARGETS):
	@scripts/$@
