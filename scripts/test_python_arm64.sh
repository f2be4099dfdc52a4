#!/bin/sh
# Prints the Python that the wheel for 64-bit ARM is tested on: Debian's, run by qemu, with NumPy and what the tests of
# arrays need. It is made in the cache folder on the first call; nothing is installed (Debian has room for one Python).
set -eu
cd "$(dirname "$0")/.."
tools=$(dirname "$(sh scripts/test_python.sh python/requirements-test.txt)")
requirements=$(grep -E '^(hypothesis|ml_dtypes|numpy|pytest|safetensors)==' python/requirements-test.txt)

fail() {
    echo "tenon: no Python for 64-bit ARM: $1" >&2
    exit 1
}
for tool in aarch64-linux-gnu-gcc qemu-aarch64 apt-get; do
    command -v $tool >/dev/null || fail "there is no $tool (sh scripts/install_deps.sh arm64)"
done
name=$(apt-cache depends python3-minimal:arm64 2>/dev/null | grep -o 'python3\.[0-9]*' | head -n 1)
[ -n "$name" ] || fail "Debian's packages for arm64 are not listed (sh scripts/install_deps.sh arm64)"

folder=${XDG_CACHE_HOME:-$HOME/.cache}/tenon/arm64-$(echo "$name $requirements" | cksum | cut -d' ' -f1)
root=$folder/root
site=$folder/lib/$name/site-packages

unpack_debian() {
    mkdir -p "$folder/debs"
    (cd "$folder/debs" && for package in "$name-minimal" "lib$name-minimal" "lib$name-stdlib" "lib$name-dev" \
        libexpat1 libffi8 libstdc++6 zlib1g; do apt-get download "$package:arm64" || exit; done) || return
    for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$root" || return; done
    rm -r "$folder/debs"
}

# Laid out as a virtual environment whose interpreter is a script: child processes start it too.
make_environment() {
    mkdir -p "$folder/bin" "$site"
    echo "home = $root/usr/bin" >"$folder/pyvenv.cfg"
    cat >"$folder/bin/python" <<END
#!/bin/sh
libraries=$root/lib/aarch64-linux-gnu:$root/usr/lib/aarch64-linux-gnu
exec qemu-aarch64 -0 "\$0" -E LD_LIBRARY_PATH="\$libraries" "$root/usr/bin/$name" "\$@"
END
    chmod +x "$folder/bin/python"
    set --
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        set -- "$@" --platform ${platform}_aarch64
    done
    # shellcheck disable=SC2086 # a list of words
    "$tools/python" -m pip install "$@" --only-binary=:all: --python-version "${name#python}" --target "$site" $requirements
}

if [ ! -e "$folder/ready" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    { unpack_debian && make_environment; } >"$folder/log" 2>&1 || fail "a download failed; see $folder/log"
    touch "$folder/ready"
fi
echo "$folder/bin/python"
