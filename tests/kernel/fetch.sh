# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# What tests/kernel/run needs, by the names of Debian's packages, into $cache. Sets kernel_source,
# kernel_version and qemu, or busybox and qemu of the second machine. Packages that only this needs, and those from other suites than the
# machine's own, are unpacked into $cache and not installed.

# The suites in which newer kernels, compilers and emulators are found.
suites=${PINNED_SGL_KERNEL_SUITES:-$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}-backports") trixie-backports}

# apt-get with lists of its own, which the machine's apt never sees; packages of $debian, or of this machine.
private_apt() {
    local tool=$1 apt=$cache/apt${debian:+-$debian}
    shift
    "$tool" -qq -oDir::Etc::SourceList="$apt/sources.sources" -oDir::Etc::SourceParts=/dev/null \
        -oDir::State::Lists="$apt/lists" -oDir::Cache="$apt/cache" -oAPT::Sandbox::User=root \
        ${debian:+"-oAPT::Architecture=$debian" "-oAPT::Architectures=$debian"} "$@"
}

# The machine's own sources, and the same archive with other suites. No host is named here.
private_apt_update() {
    local apt=$cache/apt${debian:+-$debian}
    [ ! -e "$apt/.updated" ] || return 0
    command -v apt-get >/dev/null || fail "missing: apt-get; the kernel's sources are Debian packages"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    python3 - "$suites" >"$apt/sources.sources" <<'PYTHON' ||
import glob, re, sys
code = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
code = code["VERSION_CODENAME"].strip('"')
stanzas = []
for path in glob.glob("/etc/apt/sources.list.d/*.sources"):
    stanzas += re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n", "", open(path).read()))
for path in glob.glob("/etc/apt/sources.list") + glob.glob("/etc/apt/sources.list.d/*.list"):
    for line in open(path):
        found = re.match(r"deb\s+(?:\[(.*?)\]\s*)?(\S+)\s+(\S+)\s+(.*)", line)
        if found:
            options, uri, suite, components = found.groups()
            signed = re.search(r"signed-by=(\S+)", options or "")
            stanzas.append(f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}"
                           + (f"\nSigned-By: {signed[1]}" if signed else ""))
own = [s.strip() for s in stanzas if re.search(rf"(?m)^Suites:.*\b{code}\b", s)]
main = next(s for s in own if re.search(rf"(?m)^Suites:(.*\s)?{code}(\s|$)", s))
print("\n\n".join(own + [re.sub(r"(?m)^Suites:.*", "Suites: " + sys.argv[1], main)]))
PYTHON
        fail "missing: a Debian archive in /etc/apt for this machine's own release"
    private_apt apt-get update || fail "a source is not reachable; asked for: $suites"
    touch "$apt/.updated"
}

# need COMMAND-OR-FILE PACKAGE: a tool of the machine's own suite, installed where it is missing.
need() {
    [ ! -e "$1" ] || return 0
    ! command -v "$1" >/dev/null || return 0
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >/dev/null 2>&1 || true
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-upgrade --no-install-recommends "$2" \
            >/dev/null 2>&1 || true
    fi
    [ -e "$1" ] || command -v "$1" >/dev/null || fail "missing: $1 (Debian package $2)"
}

# unpack FOLDER PACKAGE[=VERSION]...: downloads packages and unpacks them into $cache/FOLDER.
unpack() {
    local dir=$cache/$1 file
    shift
    mkdir -p "$dir.deb" "$dir"
    if ! (cd "$dir.deb" && private_apt apt-get download "$@"); then
        # Archives drop old versions: the lists are read anew next time.
        rm -f "$cache/apt${debian:+-$debian}/.updated"
        fail "missing in $suites: $*"
    fi
    for file in "$dir.deb"/*.deb; do
        dpkg-deb -x "$file" "$dir"
    done
    rm -r "$dir.deb"
}

fetch_kernel() {
    local package
    if [ ! -e "$cache/linux/.unpacked" ]; then
        private_apt_update
        package=$(private_apt apt-cache search --names-only '^linux-source-7\.[0-9]+$' |
            cut -d ' ' -f 1 | sort -V | tail -n 1)
        [ -n "$package" ] || fail "missing: linux-source-7.x in $suites"
        echo "fetch: $package"
        rm -rf "$cache/linux"
        unpack linux "$package"
        (cd "$cache/linux" && tar -xf usr/src/"$package".tar.xz && rm -r usr && mv "$package" source)
        touch "$cache/linux/.unpacked"
    fi
    kernel_source=$cache/linux/source
    kernel_version=$(make -s -C "$kernel_source" kernelversion)
}

# The source of `core` that belongs to this very compiler.
fetch_library() {
    local version sysroot deb
    version=$(rustc -V | cut -d ' ' -f 2)
    sysroot=$(rustc --print sysroot)
    # The compiler itself: the one of rustup asks first which one is meant, for every file.
    export PATH=$sysroot/bin:$PATH
    export RUST_LIB_SRC=$sysroot/lib/rustlib/src/rust/library
    [ ! -e "$RUST_LIB_SRC/core/src/lib.rs" ] || return 0
    RUST_LIB_SRC=$cache/rust-src-$version/usr/src/rustc-$version/library
    [ ! -e "$RUST_LIB_SRC/core/src/lib.rs" ] || return 0
    private_apt_update
    deb=$(private_apt apt-cache madison rust-src | tr -d ' ' | cut -d '|' -f 2 | grep "^$version+" |
        head -n 1) || true
    [ -n "$deb" ] || fail "missing: rust-src $version in $suites (or: rustup component add rust-src)"
    echo "fetch: rust-src $deb"
    unpack "rust-src-$version" "rust-src=$deb"
}

fetch_bindgen() {
    export PATH=$cache/tools/bin:$PATH
    need /usr/lib/llvm-19/lib/libclang-19.so.1 libclang1-19
    need /usr/lib/llvm-19/lib/clang/19/include libclang-common-19-dev
    export LIBCLANG_PATH=/usr/lib/llvm-19/lib
    [ ! -x "$cache/tools/bin/bindgen" ] || return 0
    echo "fetch: bindgen-cli"
    cargo install --quiet bindgen-cli --version 0.72.1 --locked --root "$cache/tools" ||
        fail "missing: bindgen-cli 0.72.1 (cargo install bindgen-cli)"
}

# What KASAN takes with Rust: both compilers on LLVM.
fetch_clang() {
    need clang-19 clang-19
    need ld.lld-19 lld-19
    need llvm-ar-19 llvm-19
}

# fetch_qemu x86|arm PROGRAM: QEMU with the libraries that this machine lacks, side by side with what is installed.
fetch_qemu() {
    local dir=$cache/qemu lib=usr/lib/$(uname -m)-linux-gnu first
    [ "$1" = x86 ] || dir=$dir-$1
    if [ ! -e "$dir/.unpacked" ]; then
        private_apt_update
        first=${suites%% *}
        echo "fetch: qemu-system-$1 from $first"
        rm -rf "$dir"
        # What apt would install, if it were asked to.
        # shellcheck disable=SC2046 # a list of packages
        unpack "${dir##*/}" $(private_apt apt-get -s install --no-install-recommends -t "$first" \
            "qemu-system-$1" | sed -n 's/^Inst \([^ ]*\) .*(\([^ ]*\) .*/\1=\2/p')
        [ -x "$dir/usr/bin/$2" ] || fail "missing: qemu-system-$1 in $first"
        touch "$dir/.unpacked"
    fi
    qemu=(env "LD_LIBRARY_PATH=$dir/$lib:$dir/${lib#usr/}" "$dir/usr/bin/$2"
        -L "$dir/usr/share/qemu" -L "$dir/usr/share/seabios")
}

# What the second machine needs: the compiler and the C library for it, an emulator, and programs of its own.
fetch_arm64() {
    local debian
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    need /usr/aarch64-linux-gnu/lib/libc.a libc6-dev-arm64-cross
    rustup target add aarch64-unknown-linux-gnu >/dev/null 2>&1 ||
        fail "missing: the target aarch64-unknown-linux-gnu (rustup target add aarch64-unknown-linux-gnu)"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    fetch_qemu arm qemu-system-aarch64
    if [ ! -e "$cache/arm64/.unpacked" ]; then
        debian=arm64
        private_apt_update
        echo "fetch: busybox-static, uuid-dev for arm64"
        rm -rf "$cache/arm64"
        unpack arm64 busybox-static uuid-dev
        touch "$cache/arm64/.unpacked"
    fi
    busybox=$cache/arm64/bin/busybox
}

fetch_all() {
    [ "$(uname -m)" = x86_64 ] || fail "the kernel is built for x86-64, on x86-64"
    command -v rustc >/dev/null || fail "missing: a Rust toolchain (cargo, rustc)"
    need python3 python3-minimal
    need gcc gcc
    need make make
    need flex flex
    need bison bison
    need bc bc
    need xz xz-utils
    need cpio cpio
    need busybox busybox-static
    need /usr/include/gelf.h libelf-dev
    need /usr/include/openssl/ssl.h libssl-dev
    fetch_kernel
    fetch_library
    fetch_bindgen
    fetch_qemu x86 qemu-system-x86_64
    # The same kernel from the same sources, wherever it is built.
    export KBUILD_BUILD_TIMESTAMP=2026-01-01 KBUILD_BUILD_USER=pinned-sgl KBUILD_BUILD_HOST=pinned-sgl
}
