#!/bin/sh
# post-image.sh BINARIES_DIR BOARD_DIR: puts together what headgate-image takes (`headgate-image build --parts`, crates/image/src/base.rs)
# and has it make the image. HEADGATE_IMAGE is that program; HEADGATE_KEY signs an update file, HEADGATE_VERSION is the version.
set -eu
binaries=$1
board=$2
target=$binaries/../target
: "${BUILD_DIR:?Buildroot sets it}" "${BR2_DL_DIR:?Buildroot sets it}"
source=$(cd "$board/../../.." && pwd)
image=${HEADGATE_IMAGE:-$source/target/release/headgate-image}
parts=$binaries/parts

rm -rf "$parts"
mkdir -p "$parts/kernel/boot" "$parts/kernel/lib" "$parts/grub/i386-pc" "$parts/grub/x86_64-efi" "$parts/programs"

release=$(ls "$target/lib/modules")
cp "$binaries/bzImage" "$parts/kernel/boot/vmlinuz-$release"
cp -a "$target/lib/modules" "$parts/kernel/lib/"
# Links into the build tree.
rm -f "$parts/kernel/lib/modules/$release/build" "$parts/kernel/lib/modules/$release/source"
cp "$target/bin/busybox" "$parts/busybox"
cp "$target/usr/sbin/headgated" "$target/usr/sbin/headgate-init" "$target/usr/bin/headgate" "$parts/programs/"

# libraries PROGRAM: what it needs, and what they need; the loader is one of them.
libraries() {
    for library in $(LC_ALL=C readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        [ ! -e "$parts/ssh/usr/lib/$library" ] || continue
        for directory in lib usr/lib; do
            [ ! -e "$target/$directory/$library" ] || cp -L "$target/$directory/$library" "$parts/ssh/usr/lib/"
        done
        libraries "$parts/ssh/usr/lib/$library"
    done
}
mkdir -p "$parts/ssh/usr/sbin" "$parts/ssh/usr/lib"
cp "$target/usr/sbin/dropbear" "$parts/ssh/usr/sbin/"
libraries "$parts/ssh/usr/sbin/dropbear"

for kind in i386-pc x86_64-efi; do
    for directory in "$BUILD_DIR"/grub2-*/"build-$kind"/grub-core; do
        cp "$directory"/*.mod "$directory"/*.lst "$directory"/*.img "$parts/grub/$kind/"
    done
done
if [ -d "$binaries/intel-ucode" ]; then
    mkdir "$parts/microcode"
    sed 's/#.*//' "$board/microcode" | while read -r pattern; do
        [ -n "$pattern" ] && find "$binaries/intel-ucode" -name "$pattern" -exec cp {} "$parts/microcode/" \;
    done
fi

# component PACKAGE LICENCE: its version is in the name of its directory, its checksum is that of what was downloaded.
component() {
    # linux-headers-6.12.91 is another package than linux; `custom` is a source that is a directory.
    for directory in "$BUILD_DIR/$1"-[0-9]* "$BUILD_DIR/$1-custom"; do
        [ -d "$directory" ] || continue
        printf '[[component]]\nname = "%s"\nversion = "%s"\nlicenses = ["%s"]\n' "$1" "${directory##*/"$1"-}" "$2"
        for archive in "$BR2_DL_DIR/$1"/*.tar.*; do
            # There is none where the source is a directory (PACKAGE_OVERRIDE_SRCDIR).
            if [ -f "$archive" ]; then
                printf 'sha256 = "%s"\n' "$(sha256sum "$archive" | cut -d ' ' -f 1)"
                break
            fi
        done
    done
}
{
    component linux GPL-2.0-only
    component busybox GPL-2.0-only
    component glibc LGPL-2.1-or-later
    component libxcrypt LGPL-2.1-or-later
    component dropbear MIT
    component grub2 GPL-3.0-or-later
    component intel-microcode "Intel microcode licence"
} >"$parts/components.toml"

cd "$source"
set -- --parts "$parts" --programs "$parts/programs" --output "$binaries/headgate.img"
[ -z "${HEADGATE_VERSION:-}" ] || set -- "$@" --version "$HEADGATE_VERSION"
[ -z "${HEADGATE_KEY:-}" ] || set -- "$@" --update-key "${HEADGATE_KEY%.key}.pub"
"$image" build "$@"
cd "$binaries"
set -- headgate.img headgate.cdx.json
if [ -n "${HEADGATE_KEY:-}" ]; then
    "$image" bundle --key "$HEADGATE_KEY" --image headgate.img --output headgate.update
    set -- "$@" headgate.update
fi
sha256sum "$@" >SHA256SUMS
echo "post-image: $binaries/headgate.img"
