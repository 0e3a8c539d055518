# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# The crate in a kernel's own tree. `kbuild/series` writes patches; they are applied to a git repository of the lab's
# kernel, checked as Linux wants it, and built: all of it built in, which is booted and tested, and as modules.

# What checkpatch asks for what the kernel's maintainers sign: python packages that only it needs.
fetch_spdx() {
    local dir=$cache/spdx
    if [ ! -e "$dir/.unpacked" ]; then
        private_apt_update
        echo "fetch: python3-ply, python3-git"
        rm -rf "$dir"
        unpack spdx python3-ply python3-git python3-gitdb python3-smmap
        touch "$dir/.unpacked"
    fi
    export PYTHONPATH=$dir/usr/lib/python3/dist-packages
}

# Linux as the one commit of a repository, whose working tree is $series.
series_repository() {
    series=$cache/series-$kernel_version
    [ ! -e "$series.git/.complete" ] || return 0
    echo "series: a git repository of Linux $kernel_version"
    rm -rf "$series" "$series.git"
    git init -q --bare "$series.git"
    git -C "$series.git" config core.bare false
    git -C "$series.git" config core.compression 1
    GIT_DIR=$series.git GIT_WORK_TREE=$kernel_source git add -A -f .
    GIT_DIR=$series.git GIT_WORK_TREE=$kernel_source git "${person[@]}" commit -q -m "Linux $kernel_version"
    git -C "$series.git" worktree add -q --detach "$series"
    touch "$series.git/.complete"
}
person=(-c "user.name=A U Thor" -c user.email=author@example.com)

# Applies the patches one by one, and looks at each. Files that are as they were keep their time, for make.
series_apply() {
    local patches=$series.patches patch log=$series.log files base
    base=$(git -C "$series.git" rev-parse HEAD)
    rm -rf "$patches"
    "$root/kbuild/series" "$series.git" "$patches" "A U Thor <author@example.com>"
    # As applied before: then it was looked at, too.
    if [ "$(cat "$patches"/* | sha256sum)" = "$(cat "$series.applied" 2>/dev/null)" ]; then
        return
    fi
    rm -f "$series.applied"
    git -C "$series" am -q --abort 2>/dev/null || true
    git -C "$series" checkout -q -f --detach "$base"
    for patch in "$patches"/*; do
        git -C "$series" "${person[@]}" am -q --whitespace=error-all "$patch" >"$log" 2>&1 ||
            fail_with "$log" "a patch cannot be applied"
        # Whether MAINTAINERS lacks something is asked of every patch that adds files; it comes with the last but one.
        # Without a repository, licences are not looked at file by file: that is done below, and takes a second each.
        (cd "$series" && GIT_DIR=/nonexistent scripts/checkpatch.pl --strict --no-summary --show-types \
            --ignore FILE_PATH_CHANGES "$patch") >"$log" 2>&1 || fail_with "$log" "checkpatch"
        ! grep -qE '^(ERROR|WARNING|CHECK)' "$log" || fail_with "$log" "checkpatch"
        files=$(git -C "$series" show --name-only --format= HEAD -- '*.rs')
        # shellcheck disable=SC2086 # names of files, without blanks
        [ -z "$files" ] || (cd "$series" && rustfmt --check $files) >"$log" 2>&1 || fail_with "$log" "rustfmt"
        echo "test: series: applied and checked: $(basename "$patch")"
        [ "${1:-}" != each ] || series_build um y linux
    done
    # shellcheck disable=SC2046 # names of files, without blanks
    (cd "$series" && scripts/spdxcheck.py $(git diff --name-only --diff-filter=A "$base")) >"$log" 2>&1 ||
        fail_with "$log" "spdxcheck"
    ! [ -s "$log" ] || fail_with "$log" "spdxcheck"
    cat "$patches"/* | sha256sum >"$series.applied"
}

# series_config um|x86 y|m
series_config() {
    cat "$here/$1.config"
    sed -n "s/^\(CONFIG_[A-Z_0-9]*\) \($1\|both\)\( $2\)\?$/\1=$2/p; s/^\(CONFIG.*=.*\) $1$/\1/p" "$here/series/config"
}

# series_build um|x86 y|m TARGETS...: the crate and its users built in, or as modules. Patches that are not there yet
# have no settings.
series_build() {
    local started=$SECONDS line setting lost
    target "$1"
    kernel=$series-$1
    modules=$kernel-run
    mkdir -p "$kernel" "$modules"
    series_config "$1" "$2" | while IFS= read -r line; do
        setting=${line%%=*}
        case $setting in
        *PINNED_SGL*) grep -rqs "config ${setting#CONFIG_}$" "$series"/rust/pinned_sgl/Kconfig "$series"/samples/rust/Kconfig \
            "$series"/drivers/vfio/Kconfig || continue ;;
        esac
        echo "$line"
    done >"$kernel.config"
    make -s -C "$series" O="$kernel" "${arch[@]}" KCONFIG_ALLCONFIG="$kernel.config" allnoconfig >"$kernel.log" 2>&1 ||
        fail_with "$kernel.log" "the kernel cannot be configured"
    lost=$(lost_settings "$kernel.config" "$kernel/.config")
    [ -z "$lost" ] || fail "this kernel does not take: $lost"
    make -s -C "$series" O="$kernel" "${arch[@]}" -j"$jobs" "${@:3}" >"$kernel.log" 2>&1 ||
        fail_with "$kernel.log" "the kernel cannot be built"
    ! grep -E '^warning|pinned_sgl.*warning:|multiple definition' "$kernel.log" >&2 || fail "warnings: $kernel.log"
    echo "test: series: built ($1, =$2) in $((SECONDS - started)) s"
}

# series_tests [each]: with `each`, a kernel is built after every patch.
series_tests() {
    local status=0
    fetch_spdx
    series_repository
    [ "${1:-}" != each ] || rm -f "$series.applied"
    series_apply "$@"

    series_build um m linux modules
    series_build um y linux
    build_initramfs "$here/series/guest.sh"
    boot_um >"$modules/boot.log" 2>&1 || status=$?
    say "User Mode Linux" "$status" 0

    series_build x86 m bzImage modules
    series_build x86 y bzImage
    build_initramfs "$here/series/guest.sh" "$here/selftest/user.c" "$root/examples/kernel/edu/user.c"
    status=0
    boot "$deadline" "" </dev/null >"$modules/boot.log" 2>&1 || status=$?
    say QEMU "$status" 33
}
