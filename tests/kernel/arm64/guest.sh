# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
#
# The tests of user space, inside the machine. Whatever fails ends it.
set -eu
echo "test: user: $(grep -m 1 KernelPageSize /proc/self/smaps)"
for program in /*-[0-9a-f][0-9a-f][0-9a-f]*; do
    name=$(basename "$program" | sed 's/-[0-9a-f]*$//')
    if ! "$program" --test-threads=1 >/tmp/out 2>&1; then
        cat /tmp/out
        echo "test: FAILED: $name"
        exit 1
    fi
    echo "test: user: $name: $(grep '^test result' /tmp/out)"
done
# What the tool shows of this machine's memory: pinned, and its own.
page=$(awk '/^KernelPageSize/ { print $2 * 1024; exit }' /proc/self/smaps)
huge=$(cat /sys/kernel/mm/transparent_hugepage/hpage_pmd_size)
# inspect KIND SIZE BEST: pages of this machine, and runs of which each is made of larger ones.
inspect() {
    /inspect --pages "$1" --size "$2" --json >/tmp/facts
    grep -q "\"page_size\": $page," /tmp/facts
    grep -q "\"best_page_size\": $3," /tmp/facts
    echo "test: user: inspect: $1: $2 in pages of $page bytes, as if in ones of $3"
}
inspect base 16M "$page"
inspect thp 1G "$huge"
inspect 2m 64M 2097152
! /inspect --size 4K 2>/tmp/out
grep "^error: --size 4096 is not a multiple of $page bytes, as transparent huge pages need" /tmp/out
/inspect --pid $$ >/tmp/out
grep -q "$((page / 1024))K  *\[stack\]$" /tmp/out
sed 's/^/test: user: inspect: /' /tmp/out
