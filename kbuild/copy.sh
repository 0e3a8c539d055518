# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# Sourced where sources are laid out for Kbuild; $root is this repository.

# copy FROM TO: makes the sources in TO those in FROM.
copy() {
    mkdir -p "$2"
    (cd "$2" && find . -type f \( -name '*.rs' -o -name '*.[ch]' \) ! -name '*.mod.c' -print) | while read -r file; do
        [ -e "$1/$file" ] || rm -f "$2/$file"
    done
    (cd "$1" && find . -type f -print) | while read -r file; do
        cmp -s "$1/$file" "$2/$file" || install -D -m 644 "$1/$file" "$2/$file"
    done
}

# The folder of a crate that this one needs.
crate_dir() {
    cargo metadata --format-version 1 --locked --manifest-path "$root/Cargo.toml" |
        python3 -c 'import json, os, sys
print(next(os.path.dirname(package["manifest_path"]) for package in json.load(sys.stdin)["packages"]
    if package["name"] == sys.argv[1]))' "$1"
}
