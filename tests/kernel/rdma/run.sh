# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# Sourced by tests/kernel/run: RDMA's own tests, on drivers that need no hardware, below them either the kernel's own
# ib_umem or examples/kernel/ib_umem. The guest is Debian's user space, in a machine of its own for each of both.

# fetch_rdma: the guest, from packages by name. They are of a later release than this machine may be, and have lists of
# their own: with these in the others, QEMU would come with that release's libc.
fetch_rdma() {
    (
        lab=$cache
        cache=$lab/rdma${debian:+-$debian} suites=trixie
        ! cmp -s "$here/rdma/packages.txt" "$cache/packages.txt" || exit 0
        rm -rf "$cache"
        private_apt_update
        echo "fetch: the guest of RDMA's tests, $(grep -vc '^#' "$here/rdma/packages.txt") packages of $suites"
        # shellcheck disable=SC2046 # a list of packages
        unpack root $(grep -v '^#' "$here/rdma/packages.txt")
        # The tests of pyverbs come as its documentation. What else nobody reads is left out.
        mv "$cache/root"/usr/share/doc/rdma-core/tests "$cache/tests" || fail "missing: the tests of python3-pyverbs"
        gunzip "$cache"/tests/*.gz
        rm -r "$cache"/apt "$cache/root"/usr/share/{doc,locale,man} "$cache/root"/usr/lib/*-linux-gnu/gconv
        cp "$here/rdma/packages.txt" "$cache/"
    ) || exit 1
}

# ib_core.ko as the kernel has it, but without memory registration, which only drivers call, and ib_umem.ko: just that,
# not a line of it changed. And tun.ko, which the kernel's own tests of RDMA need.
rdma_split() {
    local source=$kernel_source/drivers
    split=$modules/rdma/split
    mkdir -p "$split"
    cp -pu "$source"/infiniband/core/*.[ch] "$source"/net/tun.c "$source"/net/tun_vnet.h "$split/"
    [ -e "$split/umem_module.c" ] || printf '#include <linux/module.h>\nMODULE_LICENSE("Dual BSD/GPL");\nMODULE_DESCRIPTION("%s");\n' \
        "The kernel's own ib_umem" >"$split/umem_module.c"
    sed -e '/^ib_core-.*+= umem/d' "$source/infiniband/core/Makefile" - >"$split/Makefile" <<'MAKEFILE'
# These alone, of all that is defined above.
obj-m := ib_core.o ib_umem.o tun.o
ib_umem-y := umem.o umem_dmabuf.o umem_odp.o umem_module.o
CFLAGS_tun.o := -DCONFIG_TUN_MODULE
MAKEFILE
    make -s -C "$kernel" "${arch[@]}" M="$split" modules >"$split.log" 2>&1 || fail_with "$split.log" "ib_core cannot be split"
}

# What make is given for drivers that need no table: headers of ib_umem in front of the kernel's.
listed=("NOSTDINC_FLAGS=-nostdinc -I$root/examples/kernel/ib_umem/include")

# rdma_module NAME [MAKE ARGUMENTS...]: a module in C, on ib_umem, of the sources that lie in its folder.
rdma_module() {
    local dir=$modules/rdma/$1
    make -s -C "$kernel" "${arch[@]}" M="$dir" "KBUILD_EXTRA_SYMBOLS=$split/Module.symvers $modules/ib_umem/Module.symvers" \
        "${@:2}" modules >"$dir.log" 2>&1 || fail_with "$dir.log" "the module $1 cannot be built"
}

# calls.ko, which calls what only drivers of hardware call, and the same compiled for lists; and umem_differ.ko, which
# has the kernel's own umem.c beside ours; and what measures.
rdma_calls() {
    mkdir -p "$modules"/rdma/{calls,calls_lists,differ,bytes,lookup}
    cp -u "$here"/rdma/calls/* "$modules/rdma/calls/"
    cp -u "$here"/rdma/calls/* "$modules/rdma/calls_lists/"
    cp -u "$here"/rdma/differ/* "$modules/rdma/differ/"
    rdma_module calls
    rdma_module calls_lists "${listed[@]}"
    rdma_module differ "IB_UMEM=$modules/ib_umem"
    cp -u "$here"/rdma/bytes/* "$modules/rdma/bytes/"
    cp -u "$here"/rdma/lookup/* "$modules/rdma/lookup/"
    rdma_module bytes
    rdma_module lookup "${listed[@]}"
}

# examples/kernel/ib_umem; and the two drivers as they are when they look pages up in its lists.
rdma_rust() {
    local from=$root/examples/kernel/ib_umem driver dir
    copy "$from/include" "$modules/ib_umem/include"
    build_module ib_umem "$from"
    need patch patch
    for driver in rxe siw; do
        dir=$modules/rdma/$driver
        if ! cmp -s "$from/$driver.patch" "$dir/$driver.patch"; then
            rm -rf "$dir"
            cp -r "$kernel_source/drivers/infiniband/sw/$driver" "$dir"
            patch -s -p5 -d "$dir" <"$from/$driver.patch" || fail "the driver $driver has changed"
            cp "$from/$driver.patch" "$dir/"
        fi
        rdma_module "$driver" "${listed[@]}"
    done
}

# rdma_compile FOLDER [FOLDER...]: compiles drivers with the headers for lists, and those of other folders before them.
rdma_compile() {
    local log=$1.log headers=
    [ $# = 1 ] || headers=$(printf -- ' -I%s' "${@:2}")
    make -s -C "$kernel" M="$1" -j"$jobs" KBUILD_MODPOST_WARN=1 "${listed[@]/-nostdinc/-nostdinc$headers}" modules \
        >"$log" 2>&1 || fail_with "$log" "the drivers cannot be compiled"
    ! grep -B 3 -A 12 '\.[ch]:.*warning:' "$log" || fail "the drivers are compiled with warnings: $log"
}

# rdma_drivers: every driver of hardware is compiled again, without a line changed, and keeps no table then; and rdmavt
# with its patch, of which hfi1 has a header and a line. Their kernel is only configured: modpost warns that there are no
# symbols yet.
rdma_drivers() {
    local dir=$kernel_source/drivers/infiniband/hw file names='' drivers patch=$root/examples/kernel/ib_umem/rdmavt.patch
    build_kernel drivers modules_prepare
    use drivers
    mkdir -p "$modules/rdma"
    cp -rpu "$dir" "$modules/rdma/"
    dir=$modules/rdma/hw
    rdma_compile "$dir"
    for file in $(cd "$dir" && grep -rlE 'ib_umem_get_|rdma_umem_for_each_dma_block' --include='*.c'); do
        [ -e "$dir/${file%.c}.o" ] || fail "$file is not compiled"
        grep -q rdma_umem_for_each_dma_block "$dir/$file" || continue
        [[ $(nm "$dir/${file%.c}.o") = *" U ib_umem_dma_run"* ]] || fail "$file takes no blocks out of lists"
        names+=" $file"
    done
    drivers=$(tr ' ' '\n' <<<"$names" | cut -d / -f 1 | sort -u | tr '\n' ' ')
    echo "test: rdma: compiled, and take blocks out of lists: $(wc -w <<<"$drivers") drivers:$drivers"
    dir=$modules/rdma/rdmavt
    if ! cmp -s "$patch" "$dir/patch"; then
        need patch patch
        rm -rf "$dir"
        mkdir -p "$dir"
        (cd "$kernel_source" && cp -r --parents drivers/infiniband/{sw/rdmavt,hw/hfi1} include/rdma/rdmavt_mr.h "$dir/")
        patch -s -p1 -d "$dir" <"$patch" || fail "rdmavt has changed"
        echo "obj-y := drivers/infiniband/sw/rdmavt/ drivers/infiniband/hw/hfi1/" >"$dir/Kbuild"
        cp "$patch" "$dir/patch"
    fi
    rdma_compile "$dir" "$dir/include"
    [[ $(nm "$dir/drivers/infiniband/sw/rdmavt/rdmavt.o") = *" U ib_umem_run"* ]] || fail "rdmavt looks no pages up in lists"
    [[ $(nm "$dir/drivers/infiniband/hw/hfi1/hfi1.o") = *" U rvt_next_seg"* ]] || fail "hfi1 has segments of its own"
    echo "test: rdma: compiled, and looks pages up in lists: rdmavt, with hfi1 above it"
}

rdma_initramfs() {
    local dir=$modules/rdma/initramfs from=$cache/rdma${debian:+-$debian} release to file
    release=$(cat "$kernel/include/config/kernel.release")
    to=$dir/usr/lib/modules/$release
    rm -rf "$dir"
    mkdir -p "$dir"/{bin,root,run,rdma/c,rdma/rust,rdma/lists,rdma/kernel} "$to/lab"
    cp -r "$from/root"/* "$dir/"
    cp "${busybox:-$(command -v busybox)}" "$dir/bin/busybox"
    ln -s usr/lib usr/lib64 usr/sbin "$dir/"
    ln -s ../usr/bin/bash "$dir/bin/bash"
    (cd "$kernel" && cp --parents $(sed 's/\.o$/.ko/' modules.order) modules.order modules.builtin{,.modinfo} "$to/")
    cp "$split"/{ib_core,tun}.ko "$modules"/rdma/{calls/calls,differ/umem_differ,bytes/rdma_bytes}.ko "$modules/pinned_sgl/pinned_sgl.ko" "$to/lab/"
    rm "$to/drivers/infiniband/core/ib_core.ko"
    cp "$split/ib_umem.ko" "$dir/rdma/c/"
    cp "$modules/ib_umem/ib_umem.ko" "$dir/rdma/rust/"
    cp "$modules/ib_umem/ib_umem.ko" "$modules"/rdma/{rxe/rdma_rxe,siw/siw,calls_lists/calls,lookup/rdma_lookup}.ko \
        "$dir/rdma/lists/"
    cp -r "$from/tests" "$here"/rdma/{run_pyverbs.py,pyverbs.txt} "$dir/rdma/"
    cp -r "$kernel_source"/tools/testing/selftests/{kselftest,rdma} "$dir/rdma/kernel/"
    for file in blocks edges hard measure; do
        "${cross}gcc" -O2 -Wall -Werror -static -pthread -o "$dir/bin/rdma_$file" "$here/rdma/$file.c" ||
            fail "cannot compile $file.c (Debian package libc6-dev)"
    done
    cp "$here/init" "$dir/init"
    cp "$here/rdma/guest.sh" "$dir/guest.sh"
    chmod 755 "$dir/init"
    (cd "$dir" && find . | sort | cpio --quiet -o -H newc -R 0:0) >"$modules/rdma/initramfs.cpio"
}

# rdma_machine UMEM WORDS...: boots it on that ib_umem, shows what the tests have said, and fails if they have not passed.
rdma_machine() {
    local log=$modules/rdma/$1.log status=0
    # shellcheck disable=SC2086 # more arguments for QEMU, as words
    timeout --foreground "${PINNED_SGL_RDMA_DEADLINE:-3600}" "${qemu[@]}" -M q35 -accel tcg,thread=single \
        -cpu max,-la57 -smp 2 -m 3G -nodefaults -no-user-config -display none -serial stdio -monitor none -no-reboot \
        -device intel-iommu,intremap=on -device edu -device isa-debug-exit,iobase=0xf4,iosize=0x04 ${PINNED_SGL_RDMA_QEMU:-} -kernel "$kernel/arch/x86/boot/bzImage" \
        -initrd "$modules/rdma/initramfs.cpio" \
        -append "console=ttyS0 panic=-1 quiet no_timer_check hugepages=40 movablecore=512M cma=64M slab_nomerge \
slab_debug=FZP intel_iommu=on,sm_off iommu.strict=1 rdma.umem=$*" </dev/null >"$log" 2>&1 || status=$?
    tr -d '\r' <"$log" >"$log.txt"
    grep -E '^(test|guest): ' "$log.txt" || true
    if [ "$status" != 33 ]; then
        tail -n 60 "$log.txt" >&2
        fail "the machine ended with status $status, not 33: $log.txt"
    fi
    echo "test: rdma: passed on $1; log: $log.txt"
}

# rdma_recent: what CPUs that look bytes up at once share, in a program.
rdma_recent() {
    gcc -O2 -Wall -Werror -pthread -o "$modules/rdma/recent" "$here/rdma/recent.c" || fail "cannot compile recent.c"
    "$modules/rdma/recent" || fail "what is recent is not true"
}

rdma_build() {
    fetch_rdma
    mkdir -p "$modules/rdma"
    rdma_split
    rdma_rust
    rdma_calls
    rdma_initramfs
}

# rdma_edges LOG OTHER: what is answered at the edges, if anything is, is the same in both.
rdma_edges() {
    grep -q '^edge: ' "$1" || return 0
    diff <(grep '^edge: ' "$1") <(grep '^edge: ' "$2") || fail "the edges differ"
    echo "test: rdma: $(grep -c '^edge: ' "$1") answers at the edges are those of C"
}

# rdma_tests WORDS...: for guest.sh, on the command line of the kernel; without them, all tests. Where the first names
# one, on that alone: on the kernel's ib_umem (c), on ours (rust), or on ours with drivers that use its lists (lists).
rdma_tests() {
    local started=$SECONDS umem umems=(c rust lists) log=$modules/rdma
    case ${1:-} in c | rust | lists) umems=("$1") && shift ;; esac
    rdma_build
    rdma_recent
    for umem in "${umems[@]}"; do
        rdma_machine "$umem" "$@"
        [ "${#umems[@]}" = 1 ] || rdma_edges "$log/c.log.txt" "$log/$umem.log.txt"
    done
    echo "tests/kernel/run: rdma passed in $((SECONDS - started)) s"
}
