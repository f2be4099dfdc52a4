#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the Python that the wheel for 64-bit ARM is tested on: Debian's, run by qemu, with NumPy and what the tests of
# arrays need. It is made in the cache folder on the first call; nothing is installed (Debian has room for one Python).
# scripts/test_python_arm64.sh torch: prints the folder, made there too, that has PyTorch for it.
set -eu
cd "$(dirname "$0")/.."
tools=$(dirname "$(sh scripts/test_python.sh python/requirements-test.txt)")
requirements=$(grep -E '^(hypothesis|ml_dtypes|numpy|pytest|safetensors)==' python/requirements-test.txt)
what=Python
[ "${1:-}" != torch ] || what=PyTorch

fail() {
    echo "tenon: no $what for 64-bit ARM: $1" >&2
    exit 1
}
for tool in aarch64-linux-gnu-gcc qemu-aarch64 apt-get; do
    command -v $tool >/dev/null || fail "there is no $tool (sh scripts/install_deps.sh arm64)"
done
name=$(apt-cache depends python3-minimal:arm64 2>/dev/null | grep -o 'python3\.[0-9]*' | head -n 1)
[ -n "$name" ] || fail "Debian's packages for arm64 are not listed (sh scripts/install_deps.sh arm64)"

debian="$name-minimal lib$name-minimal lib$name-stdlib lib$name-dev libbz2-1.0 libexpat1 libffi8 liblzma5 libstdc++6 zlib1g"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tenon
folder=$cache/arm64-$(echo "$debian $requirements" | cksum | cut -d' ' -f1)
root=$folder/root

unpack_debian() {
    mkdir -p "$folder/debs"
    (cd "$folder/debs" && for package in $debian; do apt-get download "$package:arm64" || exit; done) || return
    for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$root" || return; done
    rm -r "$folder/debs"
}

# fetch_wheels FOLDER ARGUMENT ...: what pip would install on that machine.
fetch_wheels() {
    target=$1
    shift
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        set -- "$@" --platform ${platform}_aarch64
    done
    "$tools/python" -m pip install "$@" --only-binary=:all: --python-version "${name#python}" --target "$target"
}

# Laid out as a virtual environment whose interpreter is a script: child processes start it too.
make_environment() {
    mkdir -p "$folder/bin"
    echo "home = $root/usr/bin" >"$folder/pyvenv.cfg"
    cat >"$folder/bin/python" <<END
#!/bin/sh
libraries=$root/lib/aarch64-linux-gnu:$root/usr/lib/aarch64-linux-gnu
exec qemu-aarch64 -0 "\$0" -E LD_LIBRARY_PATH="\$libraries" "$root/usr/bin/$name" "\$@"
END
    chmod +x "$folder/bin/python"
    # shellcheck disable=SC2086 # a list of words
    fetch_wheels "$folder/lib/$name/site-packages" $requirements
}

# provide FOLDER COMMAND ...: makes a folder of the cache by the command, unless it is there and whole.
provide() {
    made=$1
    shift
    [ ! -e "$made/ready" ] || return 0
    rm -rf "$made"
    mkdir -p "$made"
    "$@" >"$made/log" 2>&1 || fail "a download failed; see $made/log"
    touch "$made/ready"
}

python_itself() {
    unpack_debian && make_environment
}

if [ $what = PyTorch ]; then
    list=python/requirements-arm64.txt
    torch=$cache/arm64-torch-$({ echo "$name"; cat $list; } | cksum | cut -d' ' -f1)
    # Without dependencies: pip reads their conditions as if they were about the machine that it runs on.
    provide "$torch" fetch_wheels "$torch/site" --no-deps -r $list
    echo "$torch/site"
else
    provide "$folder" python_itself
    echo "$folder/bin/python"
fi
