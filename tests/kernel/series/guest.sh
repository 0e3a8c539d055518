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
for suite in rust_pinned_sgl rust_pinned_sgl_examples; do
    results=/sys/kernel/debug/kunit/$suite/results
    sed -n 's/^ *\(\(not \)*ok .*\)/test: kunit: \1/p' $results
    grep -q "^ok [0-9]* $suite" $results || fail "KUnit: $suite"
done

# Two drivers that are built in, with one crate between them, where there are devices for them.
if [ -e /bin/selftest ]; then
    edu
    # `selftest` binds another driver to this device, and keeps memory pinned when it ends.
    basename /sys/bus/pci/drivers/edu/0000:* >/sys/bus/pci/drivers/edu/unbind
    selftest
fi
