# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
#
# The tests of the crate that is built in, inside the machine. Whatever fails ends it.
set -eu

fail() {
    echo "test: FAILED: $*"
    exit 1
}

[ ! -s /proc/modules ] || fail "a module is loaded"
results=/sys/kernel/debug/kunit/rust_pinned_sgl/results
sed -n 's/^ *\(\(not \)*ok .*\)/test: kunit: \1/p' "$results"
grep -q '^ok 1 rust_pinned_sgl' "$results" || fail "KUnit"

# Two drivers that are built in, with one crate between them, where there are devices for them.
if [ -e /bin/selftest ]; then
    selftest
    edu
fi
