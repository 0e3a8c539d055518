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
