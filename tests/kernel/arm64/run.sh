# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# Sourced by tests/kernel/run: the second machine, which differs from the first in whatever the crate takes as a value.
# Its pages are 64 KiB and its huge ones 512 MiB, its memory begins at a gigabyte, and its IOMMU is an SMMUv3, whose
# page table is that of `kernel::iommu::pgtable` and which maps interrupts by software.

arm64_machine=(-M "virt,gic-version=3,iommu=smmuv3,its=on" -accel tcg -cpu "max,lpa2=off" -smp 2 -m 6G -nodefaults
    -no-user-config -display none -serial stdio -monitor none -no-reboot -device edu -device "igb,romfile="
    -device "pci-testdev,membar=8G")

# arm64_boot NAME INITRAMFS ARGUMENTS: boots it, shows what the tests have said, and fails if they have not passed.
# There is no device that ends QEMU with a status: the last two lines count.
arm64_boot() {
    local log=$modules/$1.log status=0 started=$SECONDS
    # Twice as long as on x86-64: its tests have sixteen times as much memory.
    timeout --foreground "$((2 * deadline))" "${qemu[@]}" "${arm64_machine[@]}" ${devicetree:+-dtb "$devicetree"} \
        "${disks[@]}" \
        -kernel "$kernel/arch/arm64/boot/Image" -initrd "$2" \
        -append "console=ttyAMA0 panic=-1 iommu.strict=1 kunit.enable=1 kunit.autorun=1 kunit.filter_glob=*pinned_sgl* \
default_hugepagesz=2M hugepages=40 cma=0 slab_nomerge slab_debug=FZP ${*:3}" </dev/null >"$log" 2>&1 || status=$?
    say "arm64 ($1)" "$status" 0 "$1"
    tail -n 2 "$modules/$1.txt" | grep -A 1 '^guest: passed' | grep -q 'reboot: Power down$' ||
        fail "the machine has said something after it had passed: $modules/$1.txt"
    echo "test: arm64 ($1) passed in $((SECONDS - started)) s"
}

arm64_kernel_tests() {
    # Memory that must be left before it is pinned. The kernel takes reserved pages out of it, and does not give those to
    # what pins them first: so there is none in other machines.
    local movable=(movablecore=1G cma=512M) huge=(hugepagesz=512M hugepages=2)
    build_tests
    make_disks
    arm64_boot boot "$modules/initramfs.gz" "${huge[@]}" "${movable[@]}" "$@"
    # Copies stand in for caches. They are where a device of 32 bits reaches them, if all memory is.
    arm64_boot bounce "$modules/initramfs.gz" iommu.passthrough=1 swiotlb=force selftest=bounce mem=3G "${huge[@]}"
    # A machine that says of no device that it sees the caches of the CPU. As QEMU writes its description, it is larger
    # than Linux takes.
    local devicetree=$modules/incoherent.dtb dtc=$kernel/scripts/dtc/dtc
    "${qemu[@]}" "${arm64_machine[@]}" -M "dumpdtb=$devicetree" >/dev/null 2>&1 ||
        fail "the machine cannot be described"
    "$dtc" -q -I dtb -O dts "$devicetree" | sed '/dma-coherent;/d' | "$dtc" -q -I dts -O dtb -o "$devicetree.small"
    devicetree=$devicetree.small
    arm64_boot incoherent "$modules/initramfs.gz" "${huge[@]}" "${movable[@]}" selftest=incoherent
}

# Tests of user space, static: the same programs that run on the machine on which they are built.
arm64_user_tests() {
    local target=$modules/user program programs=() tests=()
    for program in "${arm64_programs[@]}"; do
        tests+=(--test "$program")
    done
    # Optimised, as far as it helps where each instruction is emulated; with the checks of tests.
    local -x RUSTFLAGS=-Ctarget-feature=+crt-static CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_OPT_LEVEL=1
    mapfile -t programs < <(cd "$root" && cargo test --locked --quiet --no-run --lib "${tests[@]}" --features linux \
        --target "$triple" --target-dir "$target" --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    [ "${#programs[@]}" = $((${#tests[@]} / 2 + 1)) ] || fail "the tests of user space cannot be built"
    (cd "$root" && cargo build --locked --quiet -p pinned-sgl-tools --bin inspect --target "$triple" --target-dir "$target") ||
        fail "inspect cannot be built"
    build_initramfs "$here/arm64/guest.sh" "$target/$triple/debug/inspect" "${programs[@]}"
    arm64_boot user "$modules/initramfs.gz" "$@"
}
# Those that read no file of the repository. The long laws, which only compute, run in KUnit there: `borders` alone took
# more than two minutes.
arm64_programs=(by_user_addr cutting descriptors linux linux_pinner mapping memory_region outsiders_real umem_pin vectors)

arm64_vfio_tests() {
    vfio_build
    vfio_disk
    arm64_boot vfio "$modules/vfio.gz" hugepagesz=512M hugepages=1 "$@"
    vfio_trace "$modules/vfio.txt"
}

# Without the tools of others: they are as slow here as what they measure.
arm64_rdma_tests() {
    local debian=arm64 umem log=$modules/rdma
    rdma_build
    for umem in c rust lists; do
        arm64_boot "rdma/$umem" "$log/initramfs.cpio" "rdma.umem=$umem" rdma.tests=edges,blocks,differ "$@"
        rdma_edges "$log/c.txt" "$log/$umem.txt"
    done
}

# arm64_tests [kernel|user|vfio|rdma [ARGUMENTS]]: one part, with more for the command line of the kernel; or all of it.
arm64_tests() {
    local started=$SECONDS part=all disks=()
    case ${1:-} in kernel | user | vfio | rdma) part=$1 && shift ;; esac
    fetch_arm64
    build_kernel arm64 Image modules
    use arm64
    build_crate
    case $part in
    all | kernel) arm64_kernel_tests "$@" ;;&
    all | user) arm64_user_tests "$@" ;;&
    all | vfio) arm64_vfio_tests "$@" ;;&
    all | rdma) arm64_rdma_tests "$@" ;;
    esac
    echo "tests/kernel/run: arm64 passed in $((SECONDS - started)) s; logs:$logs"
}
