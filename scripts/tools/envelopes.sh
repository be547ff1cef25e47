#!/bin/sh
# Foreign software that opens CMS envelopes to KEM recipients, for tests: OpenSSL and BouncyCastle of
# Debian sid, unpacked beside the system's own, which are too old for RFC 9629.
#
#   envelopes.sh DIR    leaves DIR/openssl, a command, and DIR/java/*.jar; DIR is some 40 MB
#
# Packages come from the mirror that this machine's apt uses, checked with its archive keys. Nothing
# is installed; a DIR that is finished is left alone.
# Exit: 0 done or done already, 1 failed (DIR/log says why), 2 wrong usage or something is missing.
set -eu
umask 022

fail() {
    echo "envelopes: $2" >&2
    exit "$1"
}

[ $# -eq 1 ] || fail 2 "usage: envelopes.sh DIR"
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail 2 "this needs a Debian"
mkdir -p -- "$1"
cd -- "$1"
dir=$(pwd -P)
[ ! -e done ] || exit 0

quietly() { "$@" >>log 2>&1 </dev/null || { tail -n 5 log >&2; fail 1 "failed: $*"; }; }

# The archive that has this machine's own release.
mirror() {
    . /etc/os-release
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        sed -n "s/ ${VERSION_CODENAME:-none}\$//p" | head -n 1
}

# apt with lists of its own, which know of sid alone.
sid() {
    quietly apt-get -q -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$dir/lists" -o APT::Sandbox::User=root "$@"
}

archive=$(mirror)
[ -n "$archive" ] || fail 2 "apt names no archive of this machine's release"
rm -rf sources.list lists packages root java openssl
mkdir -p lists/partial packages root java
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive sid main" >sources.list
sid update
cd packages
ln -sf ../log log
sid download openssl libssl3t64 libc6 libzstd1 zlib1g libbcprov-java libbcpkix-java libbcutil-java
for package in *.deb; do quietly dpkg -x "$package" ../root; done
cd ..
for jar in bcprov bcpkix bcutil; do cp -L "root/usr/share/java/$jar.jar" java/; done
libraries=$(dirname "$(find root/usr/lib -name 'libssl.so.3' | head -n 1)")
loader=$(find root/usr/lib root/usr/lib64 root/lib* -name 'ld-linux*.so*' 2>/dev/null | head -n 1)
cat >openssl <<EOF
#!/bin/sh
OPENSSL_CONF=/dev/null exec "$dir/$loader" --library-path "$dir/$libraries" "$dir/root/usr/bin/openssl" "\$@"
EOF
chmod +x openssl
rm -rf lists packages
quietly ./openssl version
touch done
