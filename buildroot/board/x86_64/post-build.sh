#!/bin/sh
# post-build.sh TARGET_DIR BOARD_DIR: what must be so before an image is made of it. It changes nothing.
set -eu
target=$1

fail() {
    echo "post-build: $1" >&2
    exit 1
}

busybox=$target/bin/busybox
[ -x "$busybox" ] || fail "there is no BusyBox"
# The C library is in the root for ssh alone: nothing that the box needs to start may depend on it.
if LC_ALL=C readelf -l "$busybox" | grep -q INTERP; then
    fail "BusyBox is not static: is busybox.fragment in its configuration?"
fi
for applet in sh ash hush getty login telnetd; do
    for directory in bin sbin usr/bin usr/sbin; do
        if [ -e "$target/$directory/$applet" ]; then
            fail "BusyBox has the applet $applet"
        fi
    done
done
for program in usr/sbin/dropbear usr/sbin/headgated usr/sbin/headgate-init usr/bin/headgate; do
    [ -x "$target/$program" ] || fail "there is no $program"
done
