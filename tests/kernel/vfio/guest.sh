# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=sh
#
# The tests of vfio, inside the machine: all on our backend first, while lockdep still looks, then on
# the kernel's own, whose complaints are shown and are not ours.
set -u

# The value of vfio.NAME on the command line of the kernel, or what follows.
option() {
    value=$(sed -n "s/.*vfio\.$1=\([^ ]*\).*/\1/p" /proc/cmdline)
    echo "${value:-${2:-}}"
}

failed=0
fail() {
    echo "test: FAILED: $*"
    failed=1
}

pins() {
    echo 1 >/proc/sys/vm/stat_refresh
    awk "/nr_foll_pin_$1/ { print \$2 }" /proc/vmstat
}

# What the kernel has said, from then on in /tmp/log.
log() {
    dmesg -c >>/tmp/log
}

# bounds BACKEND CASE DEVICE [ARGUMENTS]
bounds() {
    backend=$1
    shift
    vfio_bounds "$@" >/tmp/out 2>&1 || fail "$backend: vfio_bounds $*"
    sed "s/^/test: $backend: bounds: /" /tmp/out
}

# The backend that is loaded now.
use() {
    for module in emulated vfio-pci vfio-pci-core vfio_iommu_type1 vfio_type1_sgl; do
        rmmod "$module" 2>/dev/null
    done
    # With two of them the kernel would turn to the other one where one refuses.
    ! lsmod | grep type1 || fail "a backend is still loaded"
    # iommufd is a part of the kernel, and takes the calls of a container by itself.
    [ "$1" = iommufd ] || insmod "/$1.ko" || fail "insmod $1"
    insmod /vfio-pci-core.ko
    insmod /vfio-pci.ko disable_idle_d3=1
    insmod /emulated.ko
    for device in $edu $igb $nvme $testdev; do
        echo vfio-pci >"/sys/bus/pci/devices/$device/driver_override"
        [ -e "/sys/bus/pci/devices/$device/driver" ] || echo "$device" >/sys/bus/pci/drivers_probe
    done
}

# The device of a vendor, in the way of the tests.
device() {
    for path in /sys/bus/pci/devices/*; do
        if [ "$(cat "$path/vendor" "$path/device" | tr '\n' ' ')" = "$1 " ]; then
            basename "$path"
        fi
    done
}

# self_test BACKEND PROGRAM DEVICE: those of its variants that open a container of type 1.
self_test() {
    started=$(cut -d . -f 1 /proc/uptime)
    # -l prints a table: fixtures, and the variants of each.
    set -- "$1" "$2" "$3" $("$2" -l "$3" 2>&1 | tr -s ' ' '\n' | grep '^vfio_type1' | sort -u |
        sed 's/^/-v /')
    backend=$1 program=$2 device=$3
    shift 3
    "$program" "$@" "$device" >/tmp/out 2>&1
    status=$?
    # They watch the clock. A machine that did something else meanwhile gets a second chance, and the
    # log says so; what fails twice has failed.
    if grep -q 'terminated by timeout' /tmp/out; then
        echo "test: $backend: $program $device: out of time, once more"
        "$program" "$@" "$device" >/tmp/out 2>&1
        status=$?
    fi
    grep -E '^(ok|not ok|# (FAILED|Totals))' /tmp/out | sed "s/^/$backend: /"
    echo "test: $backend: $program $device: $(sed -n 's/^# Totals: //p' /tmp/out), status $status," \
        "$(($(cut -d . -f 1 /proc/uptime) - started)) s"
    if [ "$status" != 0 ]; then
        head -n 40 /tmp/out
        fail "$backend: $program $device"
    fi
    # Pins that were not taken back.
    [ "$(pins acquired)" = "$(pins released)" ] ||
        fail "$backend: $program: $(pins acquired) pins, $(pins released) released"
}

# Some tests share a gigabyte with a device, and must do it within 30 seconds: in huge pages.
echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled

insmod /pinned_sgl.ko
insmod /irqbypass.ko
insmod /vfio.ko
edu=$(device "0x1234 0x11e8")
igb=$(device "0x8086 0x10c9")
nvme=$(device "0x1b36 0x0010")
# Nothing but a BAR, of 8 GiB.
testdev=$(device "0x1b36 0x0005")
# KiB of a page.
page=$(awk '/^KernelPageSize/ { print $2; exit }' /proc/self/smaps)
backends=$(option backends vfio_type1_sgl,vfio_iommu_type1 | tr , ' ')
programs=$(option programs vfio_dma_mapping_test@edu,vfio_dma_mapping_test@igb,\
vfio_dma_mapping_mmio_test@igb,vfio_pci_device_test@igb,vfio_pci_driver_test@igb | tr , ' ')
tests=$(option tests container,self,differ,stress,bounds | tr , ' ')
# Pins that are lost on purpose.
lost=0

for backend in $backends; do
    use "$backend"
    for test in $tests; do
        case $test in
        self)
            for program in $programs; do
                if [ "$backend$(option baseline)" = vfio_iommu_type1 ]; then
                    case $program in
                    vfio_pci_driver_test*)
                        # The longest one, and no test of ours: see README.md for what it says.
                        echo "test: $backend: $program: left out; vfio.baseline=full runs it"
                        continue
                        ;;
                    esac
                fi
                self_test "$backend" "${program%@*}" "$(eval "echo \$${program#*@}")"
            done
            ;;
        container)
            # A program of user space, on this crate as well. What the kernel maps for it is recorded.
            mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
            echo 1 >/sys/kernel/tracing/events/iommu/enable || fail "nothing can be recorded"
            vfio_container "$edu" >/tmp/out 2>&1 || fail "$backend: vfio_container"
            echo 0 >/sys/kernel/tracing/events/iommu/enable
            sed "s/^/test: $backend: container: /" /tmp/out
            for line in 'by one call; the kernel has locked 4096 kB' 'a part alone: ' \
                'the device has copied "from the CPU"' 'unmapped; the kernel has locked 0 kB'; do
                grep -qF "$line" /tmp/out || fail "$backend: vfio_container does not print: $line"
            done
            sed 's/^/trace: /' /sys/kernel/tracing/trace
            echo >/sys/kernel/tracing/trace
            [ "$(pins acquired)" = "$(pins released)" ] ||
                fail "$backend: vfio_container: $(pins acquired) pins, $(pins released) released"
            # A disk is read into memory of a program, whose lists are ours: each page has its number in it.
            vfio_nvme "$nvme" >/tmp/out 2>&1 || fail "$backend: vfio_nvme"
            sed "s/^/test: $backend: nvme: /" /tmp/out
            pages=$(seq 16 | paste -sd , | sed 's/,/, /g')
            grep -qF "the disk has written [$pages], and around it 0 and 0" /tmp/out || fail "$backend: vfio_nvme: other pages"
            [ "$(pins acquired)" = "$(pins released)" ] ||
                fail "$backend: vfio_nvme: $(pins acquired) pins, $(pins released) released"
            ;;
        stress)
            vfio_stress "$edu" >/tmp/stress 2>&1 || fail "$backend: vfio_stress"
            sed "s/^/test: $backend: fails: /" /tmp/stress
            # Killed while it maps, and the module is held as long as there is a container.
            for seconds in 0.1 0.2 0.3; do
                rm -f /tmp/maps
                vfio_stress "$edu" /tmp/maps &
                while [ ! -e /tmp/maps ] && kill -0 $! 2>/dev/null; do sleep 0.1; done
                sleep "$seconds"
                ! rmmod "$backend" 2>/dev/null || fail "$backend: unloaded with a container open"
                kill -9 $! && ! wait $! 2>/dev/null || fail "$backend: vfio_stress ended by itself"
            done
            [ "$(pins acquired)" = "$(pins released)" ] ||
                fail "$backend: vfio_stress: $(pins acquired) pins, $(pins released) released"
            echo "test: $backend: killed three times: no page is pinned"
            ;;
        bounds)
            single=/sys/module/$backend/parameters/disable_hugepages
            # How much is mapped, and how much of that time it may take to undo it, in percent. The kernel's own
            # unmaps much slower.
            part=1 within=50 small=$((64 * page))
            # And can be killed between batches only, each of a page of pointers: here are some.
            [ "$backend" != vfio_iommu_type1 ] || part=4 within=1000 small=$((page > 4 ? small : 64))
            echo 1 >"$single"
            bounds "$backend" kill-huge "$edu" $((256 / part)) "$within"
            echo 0 >"$single"
            bounds "$backend" kill-small "$edu" "$small" "$within"
            bounds "$backend" kill-huge "$edu" $((32768 / part)) "$within"
            bounds "$backend" repins "$edu"
            bounds "$backend" faults "$edu"
            bounds "$backend" toggles "$edu" "$single"
            bounds "$backend" bar "$testdev"
            # The kernel's own does not look for signals there.
            [ "$backend" = vfio_iommu_type1 ] || bounds "$backend" slow "$edu"
            [ "$(pins acquired)" = "$(pins released)" ] ||
                fail "$backend: vfio_bounds: $(pins acquired) pins, $(pins released) released"
            ;;
        careless)
            # Drivers that leave something behind: pins are lost, and the kernel warns.
            echo Y >"/sys/module/$backend/parameters/allow_unsafe_interrupts"
            bounds "$backend" reserved "$edu"
            log
            bounds "$backend" leaks "$edu"
            dmesg -c >/tmp/said
            [ "$(grep -cE "$complaints" /tmp/said)" = 1 ] || fail "$backend: one warning, and no more"
            grep -E "$complaints|stay pinned" /tmp/said | sed "s/^/test: $backend: careless: /"
            if [ "$backend" = vfio_iommu_type1 ]; then
                # It has lost its record of the page, too, and the pins of pages that the kernel keeps for itself.
                sleep 6
                for word in scan scan clear; do echo "$word" >/sys/kernel/debug/kmemleak; done
            else
                [ $(($(pins acquired) - $(pins released))) = 1 ] || fail "$backend: other pins are lost, too"
                bounds "$backend" keeps "$edu"
                [ "$(dmesg -c | grep -cE "$complaints")" = 1 ] || fail "$backend: one warning, and no more"
            fi
            lost=$(($(pins acquired) - $(pins released)))
            ;;
        interrupts)
            # A machine whose IOMMU does not remap interrupts: a device could forge them.
            allow=/sys/module/$backend/parameters/allow_unsafe_interrupts
            ! vfio_differ "$edu" "$igb" 1 40 >/tmp/refused || fail "$backend: unsafe interrupts"
            grep 'VFIO_SET_IOMMU: Operation not permitted' /tmp/refused >/tmp/why || fail "$backend: other errno"
            echo Y >"$allow"
            vfio_differ "$edu" "$igb" 1 40 >"/tmp/$backend.unsafe" || fail "$backend: allow_unsafe_interrupts"
            for other in /tmp/*.unsafe; do
                cmp "/tmp/$backend.unsafe" "$other" || fail "the backends differ"
            done
            echo "test: $backend: without interrupt remapping: refused, but with allow_unsafe_interrupts"
            ;;
        measure)
            container=/dev/vfio/vfio
            [ "$backend" != iommufd ] || container=/dev/iommu
            for megabytes in $(option megabytes 256 | tr , ' '); do
                vfio_measure "$edu" "$megabytes" "$container" >/tmp/measured || fail "$backend: vfio_measure"
                sed "s/^/test: $backend: /" /tmp/measured
            done
            # Once more and untimed, with a probe in the way.
            insmod /calls.ko || fail "insmod calls"
            vfio_measure "$edu" 64 "$container" >/tmp/measured || fail "$backend: vfio_measure"
            pages=$(awk -F ', ' '/pages unmapped/ { n += $3 } END { print n }' /tmp/measured)
            echo "test: $backend: iommu_iova_to_phys:" \
                "$(cat /sys/module/calls/parameters/calls) calls, $pages pages unmapped"
            rmmod calls
            ;;
        differ)
            for seed in $(seq 1 "$(option seeds 8)"); do
                # Every third run in a container that takes few mappings. Four runs of eight with small pages
                # only: with each version of type1, with and without a limit of locked memory.
                limit=65535
                [ $((seed % 3)) != 0 ] || limit=8
                echo "$limit" >"/sys/module/$backend/parameters/dma_entry_limit"
                echo $((seed / 4 % 2)) >"/sys/module/$backend/parameters/disable_hugepages"
                log
                vfio_differ "$edu" "$igb" "$seed" "$(option steps 400)"
                echo "limits in the log: $(dmesg | grep -c 'RLIMIT_MEMLOCK.*exceeded')"
            done >"/tmp/$backend.differ" 2>&1 || fail "$backend: vfio_differ"
            [ "$(pins acquired)" = "$(pins released)" ] ||
                fail "$backend: vfio_differ: $(pins acquired) pins, $(pins released) released"
            ;;
        *) fail "there is no test $test" ;;
        esac
    done
    log
    if [ "$backend" = vfio_iommu_type1 ]; then
        grep -E "$complaints" /tmp/log | sed "s/^/test: $backend: the kernel says: /"
    else
        ! grep -E "$complaints" /tmp/log || fail "$backend: the kernel complains"
    fi
    rm /tmp/log
done
case " $tests " in
*" differ "*)
    set -- $backends
    if cmp -s "/tmp/$1.differ" "/tmp/${2:-$1}.differ"; then
        echo "test: differ: $(wc -l <"/tmp/$1.differ") lines are equal," \
            "$(grep -c ' = 0' "/tmp/$1.differ") of them successes"
    else
        diff "/tmp/$1.differ" "/tmp/$2.differ" | head -n 60
        fail "the backends differ"
    fi
    # Which answers were seen, and how often.
    sed -n 's/^\([a-z0-9]*\) .* = \(-\{0,1\}[0-9]*\).*/\1 \2/p' "/tmp/$1.differ" | sort | uniq -c |
        sed 's/^/test: differ: /'
    ;;
esac
rmmod emulated vfio-pci vfio-pci-core
[ $(($(pins acquired) - $(pins released))) = "$lost" ] || fail "pages are pinned at the end"
awk '/nr_foll_pin/ { print "test: at the end: " $0 }' /proc/vmstat
exit "$failed"
