# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# Sourced by tests/kernel/run: Linux's own tests of vfio and a differential test, on the kernel's type1
# backend and on examples/kernel/vfio_type1, in one machine. The tests are built from the source of
# the kernel, unmodified, outside of the repository.

# vfio_programs FOLDER: the self-tests, static, against the headers of this very kernel.
vfio_programs() {
    local tests=$kernel_source/tools/testing/selftests out=$modules/vfio name
    local headers=$out/headers/usr/include uuid=() drivers=("$tests"/vfio/lib/drivers/*/*.c)
    if [ -n "$cross" ]; then
        # As its Makefile has it, those of Intel's devices are for x86 only.
        drivers=("$tests"/vfio/lib/drivers/{igb,nv_falcon}/*.c)
        uuid=("-I$cache/arm64/usr/include" "-L$cache/arm64/usr/lib/aarch64-linux-gnu")
    else
        need /usr/include/uuid/uuid.h uuid-dev
    fi
    mkdir -p "$out"
    [ -e "$headers/linux/vfio.h" ] ||
        make -s -C "$kernel_source" "${arch[@]}" O="$out/headers" headers >"$out/headers.log" 2>&1 ||
        fail_with "$out/headers.log" "the headers of the kernel cannot be made"
    for name in vfio_dma_mapping_test vfio_dma_mapping_mmio_test vfio_pci_device_test \
        vfio_pci_driver_test; do
        [ "$out/$name" -nt "$tests/vfio/$name.c" ] ||
            "${cross}gcc" -w -static -D_GNU_SOURCE= "${uuid[@]}" -isystem "$headers" -I"$tests" \
                -I"$tests/vfio/lib/include" -I"$kernel_source/tools/include" -o "$out/$name" \
                "$tests/vfio/$name.c" "$tests"/vfio/lib/*.c "${drivers[@]}" \
                -luuid -lpthread >"$out/$name.log" 2>&1 ||
            fail_with "$out/$name.log" "$name cannot be built"
        cp "$out/$name" "$1/"
    done
    # Examples for user space, static as well; with a target of their own, for which alone the flags are.
    local target=$out/target
    (cd "$root" && RUSTFLAGS=-Ctarget-feature=+crt-static cargo build --locked --quiet \
        --target "$triple" --target-dir "$target" --example vfio_container --example vfio_nvme) ||
        fail "the examples vfio_container and vfio_nvme cannot be built"
    cp "$target/$triple/debug/examples/"vfio_{container,nvme} "$1/"
    for name in bounds differ measure stress; do
        "${cross}gcc" -O2 -Wall -Werror -static -isystem "$headers" -o "$1/vfio_$name" "$here/vfio/$name.c" \
            >"$out/$name.log" 2>&1 || fail_with "$out/$name.log" "$name cannot be built"
    done
}

vfio_initramfs() {
    local dir=$modules/vfio/initramfs
    rm -rf "$dir"
    mkdir -p "$dir/bin"
    cp "${busybox:-$(command -v busybox)}" "$dir/bin/busybox"
    cp "$here/init" "$dir/"
    cp "$here/vfio/guest.sh" "$dir/guest.sh"
    vfio_programs "$dir/bin"
    local module
    for module in virt/lib/irqbypass drivers/vfio/vfio drivers/vfio/vfio_iommu_type1 \
        drivers/vfio/pci/vfio-pci-core drivers/vfio/pci/vfio-pci; do
        cp "$kernel/$module.ko" "$dir/"
    done
    cp "$modules/pinned_sgl/pinned_sgl.ko" "$modules/vfio_type1/vfio_type1_sgl.ko" "$modules/vfio/emulated/"{emulated,calls}.ko "$dir/"
    chmod 755 "$dir/init"
    (cd "$dir" && find . | sort | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$modules/vfio.gz"
}

vfio_build() {
    mkdir -p "$modules/vfio"
    build_module vfio_type1 "$root/examples/kernel/vfio_type1"
    local emulated=$modules/vfio/emulated
    mkdir -p "$emulated"
    cp "$here/vfio/emulated/"* "$emulated/"
    make -s -C "$kernel" "${arch[@]}" M="$emulated" modules >"$emulated/build.log" 2>&1 ||
        fail_with "$emulated/build.log" "the emulated device cannot be built"
    vfio_initramfs
}

# vfio_tests [ARGUMENTS]: for guest.sh, on the command line of the kernel; without them all tests, in two machines.
vfio_tests() {
    local started=$SECONDS
    vfio_build
    vfio_machine boot "$@"
    vfio_trace "$modules/vfio/boot.log.txt"
    [ "$#" != 0 ] || intremap=off vfio_machine interrupts vfio.tests=interrupts,careless
    echo "tests/kernel/run: vfio passed in $((SECONDS - started)) s"
}

# vfio_trace LOG: if the example has run, what was recorded meanwhile is read by `plan --trace`: on each backend, it has
# mapped 4 MiB.
vfio_trace() {
    local recording=$modules/vfio/recording.txt
    sed -n 's/^trace: //p' "$1" >"$recording"
    [ -s "$recording" ] || return 0
    (cd "$root" && cargo run --locked --quiet -p pinned-sgl-tools --bin plan -- --json --trace "$recording") |
        python3 -c 'import json, sys
processes = json.load(sys.stdin)["processes"]
print("test: trace: plan reads of", len(processes), "processes",
    [process["mapped_bytes"] for process in processes], "bytes mapped")
sys.exit(not processes or any(process["mapped_bytes"] % (4 << 20) for process in processes))' ||
        fail "plan does not read what was recorded: $recording"
}

# vfio_machine NAME ARGUMENTS: boots it, shows what the tests have said, and fails if they have not passed.
vfio_machine() {
    local log=$modules/vfio/$1.log status=0
    vfio_boot "${@:2}"
    tr -d '\r' <"$log" >"$log.txt"
    grep -E '^(test|guest): ' "$log.txt" || true
    if [ "$status" != 33 ]; then
        tail -n 60 "$log.txt" >&2
        fail "the machine ended with status $status, not 33: $log.txt"
    fi
    echo "test: vfio: passed; log: $log.txt"
}

# vfio_disk: of 16 pages, each of which has its number in it, from 1 on.
vfio_disk() {
    local page
    for page in $(seq 16); do
        head -c 4096 /dev/zero | tr '\0' "\\$(printf '%03o' "$page")"
    done >"$modules/vfio/pages.disk"
    disks=(-drive "file=$modules/vfio/pages.disk,if=none,id=pages,format=raw" -device nvme,serial=pages,drive=pages)
}

# vfio_boot ARGUMENTS: boots the machine of the tests, into $log; its $status.
vfio_boot() {
    vfio_disk
    # Both processors in one thread: with two, the emulator forgot one of them for ever now and then, whatever ran
    # there, and is hardly faster.
    # shellcheck disable=SC2086 # more arguments for QEMU, as words
    timeout --foreground "${PINNED_SGL_VFIO_DEADLINE:-900}" "${qemu[@]}" \
        -M q35 -accel tcg,thread=single \
        -cpu max,-la57 -smp 2 -m 2G -nodefaults -no-user-config -display none -serial stdio \
        -monitor none -no-reboot -device "intel-iommu,intremap=${intremap:-on}" -device edu \
        "${disks[@]}" -device igb,romfile= -device pci-testdev,membar=8G -device isa-debug-exit,iobase=0xf4,iosize=0x04 ${PINNED_SGL_VFIO_QEMU:-} \
        -kernel "$kernel/arch/x86/boot/bzImage" -initrd "$modules/vfio.gz" \
        -append "console=ttyS0 panic=-1 intel_iommu=on,sm_off iommu.strict=1 no_timer_check hugepages=40 slab_debug=FZP $*" \
        </dev/null >"$log" 2>&1 || status=$?
}
