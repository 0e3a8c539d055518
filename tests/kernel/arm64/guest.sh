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
for what in "base 16M" "thp 1G" "2m 64M"; do
    /inspect --pages "${what% *}" --size "${what#* }" --json >/tmp/facts
    grep -q "\"page_size\": $page," /tmp/facts
    echo "test: user: inspect: ${what% *}: $(grep -E '"(page_size|pages|runs|best_page_size)":' /tmp/facts | tr -d '\n')"
done
! /inspect --size 4K 2>/tmp/out
grep "^error: --size 4096 is not a multiple of $page bytes, as transparent huge pages need" /tmp/out
/inspect --pid $$ >/tmp/out
sed 's/^/test: user: inspect: /' /tmp/out
