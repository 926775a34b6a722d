#!/bin/sh
# build.sh ARCH VERSION OUT: a tarball, a deb and an rpm of bin/sluice-ARCH, in OUT.
#
# Two builds of one commit are equal byte for byte: every time in them is the
# commit's, names are sorted, owners are root. `sluice` of this machine makes the
# pages and completions, which are the same for all architectures.
set -eu
arch=$1 version=$2 out=$3
: "${GO:=go}" "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH
name=sluice-$version-linux-$arch
root=$out/$name
umask 022

rm -rf "$root"
mkdir -p "$root/bin" "$root/etc/sluice" "$root/lib/systemd/system" "$root/share/man/man8" \
	"$root/share/bash-completion/completions" "$root/share/zsh/vendor-completions" \
	"$root/share/fish/vendor_completions.d" "$root/share/doc/sluice"
install -m 755 "bin/sluice-$arch" "$root/bin/sluice"
bin/sluice config example >"$root/etc/sluice/sluice.yaml"
install -m 644 internal/packaging/sluice.service "$root/lib/systemd/system/"
bin/sluice man --directory "$root/share/man/man8" >/dev/null
gzip -9n "$root"/share/man/man8/*.8
bin/sluice completion bash >"$root/share/bash-completion/completions/sluice"
bin/sluice completion zsh >"$root/share/zsh/vendor-completions/_sluice"
bin/sluice completion fish >"$root/share/fish/vendor_completions.d/sluice.fish"
install -m 644 LICENSE docs/*.md internal/packaging/60-sluice.conf "$root/share/doc/sluice/"
# README lies beside the other documents there, not above them.
sed 's|](docs/|](|g' README.md >"$root/share/doc/sluice/README.md"
sed -i 's|](\.\./README|](README|g' "$root"/share/doc/sluice/*.md
install -m 644 -D -t "$root/share/doc/sluice/dashboards" internal/metrics/dashboards/*
for dir in docs/*/; do
	[ ! -d "$dir" ] || cp -r "$dir" "$root/share/doc/sluice/"
done
"$GO" run ./internal/packaging/licences >"$root/share/doc/sluice/copyright"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=gnu \
	-C "$out" -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
ROOT=$root ARCH=$arch VERSION=$version
export ROOT ARCH VERSION
for format in deb rpm; do
	said=$("$GO" tool -modfile=internal/packaging/nfpm.mod nfpm package --config internal/packaging/nfpm.yaml \
		--packager $format --target "$out/$name.$format" 2>&1) || { echo "$said" >&2; exit 1; }
done
rm -rf "$root"
