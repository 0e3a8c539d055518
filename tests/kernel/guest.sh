# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
#
# The tests, inside the machine. Whatever fails ends it.
set -eu

fail() {
    echo "test: FAILED: $*"
    exit 1
}

# Pages that are pinned anywhere.
pinned() {
    echo 1 >/proc/sys/vm/stat_refresh
    awk '/nr_foll_pin_acquired/ { n += $2 } /nr_foll_pin_released/ { n -= $2 } END { print n }' /proc/vmstat
}

# Loads the kernel's own driver of disks, which are there some time after it is, and then the example.
disks() {
    insmod /nvme-core.ko
    insmod /nvme.ko
    # Huge pages of 2 MiB, where those that Linux has by default are larger.
    echo always >/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled
    while ! [ -e /dev/nvme0n1 ] || ! [ -e /dev/nvme1n1 ]; do sleep 0.1; done
    insmod /nvme_sgl.ko
}

# What differs: the window of interrupts, what interrupts `edu` (see its driver), what the IOMMU says when it refuses.
case $(uname -m) in
x86_64)
    window=0xfee00000..=0xfeefffff line=MSI
    refused='DMAR:.*fault addr ' reads='DMA Read' writes='DMA Write' directions=2
    ;;
aarch64)
    window=0x8000000..=0x80fffff line=Level
    # Of the SMMU there are ten lines in five seconds, and one for each word that is read, before any is written.
    refused='smmuv3: event: F_TRANSLATION .* iova: ' reads='data read' writes='data write' directions=1
    ;;
esac

# What all other modules here use.
insmod /pinned_sgl.ko

# What the CPU and a device each see, where that is not the same.
if grep -q 'selftest=bounce' /proc/cmdline; then
    insmod /selftest.ko
    selftest bounce
    disks
    nvme bounce
    [ "$(pinned)" = 0 ] || fail "$(pinned) pages are pinned after the transfers"
    exit 0
fi

# A machine whose devices do not see the caches of the CPU.
if grep -q 'selftest=incoherent' /proc/cmdline; then
    ! find /proc/device-tree/ -name dma-coherent | grep . || fail "something is coherent"
    insmod /selftest.ko
    selftest incoherent
    insmod /edu.ko
    edu incoherent
    [ "$(pinned)" = 0 ] || fail "$(pinned) pages are pinned at the end"
    exit 0
fi

# KUnit runs when the module is loaded, and reports in the log.
if [ -e /laws.ko ]; then
    insmod /laws.ko
    for suite in pinned_sgl rust_pinned_sgl_examples; do
        results=/sys/kernel/debug/kunit/$suite/results
        sed -n 's/^ *\(\(not \)*ok .*\)/test: kunit: \1/p' $results
        grep -q "^ok [0-9]* $suite" $results || fail "KUnit: $suite"
    done
    rmmod laws
fi

# Where time is measured: in User Mode Linux, at the speed of the machine, and where instructions are counted.
if [ -e /bench.ko ]; then
    insmod /bench.ko
    dmesg | sed -n 's/^.*bench: /test: bench: /p'
fi
# No more in User Mode Linux, nor where only that is counted.
[ -e /selftest.ko ] || exit 0

insmod /selftest.ko
selftest
# The window of message-signalled interrupts, and a message that has passed.
dmesg | grep -q "selftest: reserved: $window" || fail "nothing is reserved"
dmesg | sed -n 's/^.*\(a message to .*\)/test: selftest: \1/p' | grep . || fail "no interrupt has arrived"
[ "$(pinned)" = 10 ] || fail "10 pages should be pinned, not $(pinned)"
rmmod selftest
[ "$(pinned)" = 0 ] || fail "$(pinned) pages are pinned after the module is gone"
echo "test: unload: the module has unpinned what it held"
dmesg | grep -q 'memlock: 4 pages more than were charged' || fail "too much was uncharged, and nothing reports it"
for counter in pinned_vm locked_vm "locked_vm of the user"; do
    dmesg | grep -q "memlock: 5 pages were charged, and $counter has only 2" || fail "$counter: nothing reports what is missing"
done
dmesg | grep -q 'selftest: killed, and charged nothing' || fail "a thread that is killed waits for the lock"

# The device is blocked from here on; the module stays, and knows of the domain that it has forgotten.
insmod /selftest.ko
selftest forget
dmesg | grep -q 'its driver has left it in an IOMMU domain; it is blocked' || fail "the device is not blocked"

insmod /edu.ko
# Two drivers, one crate; it stays as long as one of them does.
[ "$(awk '$1 == "pinned_sgl" { print $3 }' /proc/modules)" = 2 ] || fail "not both modules use that of the crate"
! rmmod pinned_sgl 2>/dev/null || fail "the crate was unloaded below its drivers"
edu
[ "$(pinned)" = 0 ] || fail "$(pinned) pages are pinned after the copies"
grep "$line.* edu\$" /proc/interrupts | sed 's/^/test: edu: interrupts: /' | grep . || fail "the device does not interrupt"
[ "$(dmesg | grep -c 'edu .*a transfer has not ended')" = 2 ] || fail "the device does not hang"
# What the DMA API knows of the device that is still mapped. It warns of that, too, when the driver goes.
[ "$(cat /sys/kernel/debug/dma-api/disabled)" = N ] || fail "the DMA API is not checked"
! grep '^edu ' /sys/kernel/debug/dma-api/dump || fail "something is still mapped"
# What the device tried after it was unmapped: each access is a fault in the log of the IOMMU.
dmesg | grep -E "${refused}0x(4|c)[0-9a-f]{6}" >/tmp/faults || fail "the IOMMU has refused nothing"
[ "$(dmesg | grep -oE "$reads|$writes" | sort -u | wc -l)" -ge "$directions" ] || fail "not both are refused"
sed 's/^/test: edu: refused: /' /tmp/faults | head -n 4
# By the DMA API it has tried nothing that is not mapped.
! dmesg | grep -E "$refused" | grep -vE "${refused}0x(4|c)[0-9a-f]{6}" || fail "refused elsewhere"
rmmod edu
[ "$(pinned)" = 0 ] || fail "$(pinned) pages are pinned at the end"

# Where there are disks.
if [ -e /nvme_sgl.ko ]; then
    said=$(($(dmesg | wc -l) + 1))
    disks
    nvme
    [ "$(pinned)" = 0 ] || fail "$(pinned) pages are pinned after the transfers"
    # What the controller tried once more after it was unmapped in the domain of its driver; and nothing else.
    dmesg | tail -n "+$said" >/tmp/log
    grep -E "$refused" /tmp/log >/tmp/faults || fail "the IOMMU has refused nothing"
    sed 's/^/test: nvme: refused: /' /tmp/faults | head -n 4
    # 512 bytes from 1024 on in a page, as they are or as the page.
    ! grep -vE "${refused}0x1000000(0|4|5)[0-9a-f]{2} " /tmp/faults || fail "refused elsewhere"
    grep -q "$writes" /tmp/log && ! grep "$reads" /tmp/log || fail "what is written to memory is refused, and nothing else"
    rmmod nvme_sgl
    [ "$(pinned)" = 0 ] || fail "$(pinned) pages are pinned at the end"
fi

awk '/nr_foll_pin/ { print "test: at the end: " $0 }' /proc/vmstat
